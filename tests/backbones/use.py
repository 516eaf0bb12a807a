"""A RetinaNet on a backbone: pruned to half its FLOPs, run, trained, saved, loaded."""

import os
import tempfile

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.structures import Boxes, Instances

import blendprune
from blendprune.pruning import count_flops, prune
from tests.zoo.models import assert_same, few_regions, settle_norms, train_one_step

from .models import retinanet


def prune_and_use(build, size, max_flops=0.5):
    """Prune a RetinaNet on a backbone, then run, train, save, load and compare it.

    Args:
        build (Callable): gives the dense backbone.
        size (int): side of the images in pixels.
        max_flops (float): as of :func:`blendprune.prune`.

    Returns:
        dict: ``"flops"`` and ``"notes"`` of the report, ``"result"``.

    Raises:
        AssertionError: something did not come out as it should.
    """
    model = retinanet(build()).eval()
    batch = [_labelled(size), _labelled(size)]
    images = [{"image": batch[0]["image"], "height": size, "width": size}]
    settle_norms(model, images)
    report = prune(model, images, max_flops=max_flops, importance="magnitude", rounds=1)
    flops = report.flops
    assert 0.98 * max_flops <= flops["after"] / flops["before"] <= max_flops
    assert flops["after"] == sum(count_flops(model, images).values())
    few_regions(model)
    with torch.no_grad():
        model(images)
    train_one_step(model, batch)
    with tempfile.TemporaryDirectory() as folder:
        DetectionCheckpointer(model, folder).save("model_pruned")
        dense = retinanet(build()).eval()
        loaded = blendprune.load(os.path.join(folder, "model_pruned.pth"), model=dense)
    few_regions(loaded)
    assert_same(model, loaded, images)
    return {"flops": flops, "notes": report.notes, "result": "green"}


def _labelled(size):
    instances = Instances((size, size))
    instances.gt_boxes = Boxes(size * torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.9]]))
    instances.gt_classes = torch.tensor([0, 2])
    return {
        "image": 255 * torch.rand(3, size, size),
        "instances": instances,
        "height": size,
        "width": size,
    }
