"""The training forward on made-up labels, to see the branches that only training takes.

An auxiliary head (CondInst's ``SEMANTIC_LOSS_ON``, FCPose's heatmaps) reads features that inference
prunes, and has to be cut with them. What the losses come to is of no interest, and a forward that
fails half-way has shown the branches before.
"""

import contextlib

import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from torch import nn

from ..tracing.snapshot import keeping_state
from ..tracing.view import is_norm, is_prunable_layer
from .instances import no_gradients_from_recurrent_layers


def run_training(model, batched_inputs):
    """Run the training forward of a model in eval mode; the model is afterwards what it was.

    Layers, norms and dropout stay in eval mode. What the forward raises is dropped.

    Args:
        model (nn.Module): a detectron2-style model in eval mode.
        batched_inputs (list[dict]): detectron2's format; only ``"image"``, (C, H, W), is read.
    """
    labelled = [made_up_labels(x["image"]) for x in batched_inputs]
    with keeping_state(model), torch.random.fork_rng(devices=[]), contextlib.suppress(Exception):
        for module in model.modules():
            still = is_prunable_layer(module) or is_norm(module)
            module.training = not (still or isinstance(module, nn.modules.dropout._DropoutNd))
        with no_gradients_from_recurrent_layers(model):
            model(labelled)


def made_up_labels(image):
    """One object that fills the image, with every label that a loss may read.

    Args:
        image (Tensor): (C, H, W).

    Returns:
        dict: detectron2's format: ``"image"``, ``"height"``, ``"width"``, ``"sem_seg"``,
        ``"basis_sem"``, ``"proposals"`` and ``"instances"``, the latter with boxes, classes, masks,
        keypoints (COCO's 17), and AdelaiDet's Bezier curves, texts and heatmaps.
    """
    height, width = size = tuple(image.shape[1:])
    box = torch.tensor([[0.0, 0, width, height]])
    instances = Instances(size)
    instances.gt_boxes = Boxes(box)
    instances.gt_classes = torch.zeros(1, dtype=torch.long)
    instances.gt_masks = BitMasks(torch.ones(1, *size, dtype=torch.bool))
    points = torch.tensor([width / 2, height / 2, 2.0]).expand(1, 17, 3)
    instances.gt_keypoints = Keypoints(points.clone())
    instances.beziers = torch.zeros(1, 16)
    instances.text = torch.zeros(1, 25, dtype=torch.int32)
    # Strides 2 and 8 of the image as it is padded to multiples of 32.
    half = [16 * (-(-side // 32)) for side in size]
    instances.keypoint_heatmap = instances.head_heatmap = torch.ones(1, 17, *half)
    instances.p3_output_list = torch.ones(1, 17, *(side // 4 for side in half))
    proposals = Instances(size)
    proposals.proposal_boxes = Boxes(box.clone())
    proposals.objectness_logits = torch.zeros(1)
    labels = torch.zeros(size, dtype=torch.long)
    return {
        "image": image,
        "height": height,
        "width": width,
        "instances": instances,
        "proposals": proposals,
        "sem_seg": labels,
        "basis_sem": labels,
    }
