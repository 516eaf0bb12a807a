"""A RetinaNet on a backbone: pruned to half its FLOPs, run, trained, saved, loaded."""

import torch
from detectron2.structures import Boxes, Instances

import blendprune
from tests.zoo.models import few_regions, prune_and_compare

from .models import retinanet


def prune_and_use(build, size, max_flops=0.5):
    """Prune a RetinaNet on a backbone, then run, train, save, load and compare it.

    Args:
        build (Callable): gives the dense backbone.
        size (int): side of the images in pixels.
        max_flops (float): as of :func:`blendprune.prune`.

    Returns:
        dict: ``"flops"``, ``"params"`` and ``"notes"`` of the report, ``"result"``.

    Raises:
        AssertionError: something did not come out as it should.
    """
    model = retinanet(build()).eval()
    batch = [_labelled(size), _labelled(size)]
    images = [{"image": batch[0]["image"], "height": size, "width": size}]

    def load(path):
        loaded = blendprune.load(path, model=retinanet(build()).eval())
        few_regions(loaded)
        return loaded

    return prune_and_compare(model, images, batch, load, max_flops)


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
