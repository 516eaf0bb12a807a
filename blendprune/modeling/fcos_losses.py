"""Losses of FCOS, and the box overlaps that they use."""

import torch
import torch.distributed as dist
from detectron2.utils.comm import get_world_size
from torch import nn

from ..errors import ConfigError


def mean_over_workers(value):
    """Average a scalar tensor over all processes.

    Returns:
        float: the mean.
    """
    world_size = get_world_size()
    value = value.detach().float()
    if world_size > 1:
        value = value.clone()
        dist.all_reduce(value)
        value = value / world_size
    return value.item()


def centerness(distances):
    """Compute the centerness of locations in their boxes (arXiv:1904.01355, equation 3).

    Args:
        distances (Tensor): (n, 4), to the left, top, right and bottom edge.

    Returns:
        Tensor: (n,), 1 at the centre, 0 at an edge.
    """
    opposite = distances.unflatten(1, (2, 2))
    ratios = opposite.amin(dim=1) / opposite.amax(dim=1)
    return ratios.prod(dim=1).sqrt()


def overlaps(pred, target):
    """Compute IoU and generalised IoU (arXiv:1902.09630) of boxes around the same locations.

    Adds 1 to the areas of intersection and union, so that empty boxes have a gradient.

    Args:
        pred (Tensor): (n, 4), distances to the left, top, right and bottom edge.
        target (Tensor): (n, 4).

    Returns:
        tuple[Tensor, Tensor]: both (n,).
    """
    shared = _area(torch.minimum(pred, target))
    hull = _area(torch.maximum(pred, target))
    union = _area(pred) + _area(target) - shared
    iou = (shared + 1.0) / (union + 1.0)
    return iou, iou - (hull - union) / hull


def _area(distances):
    left, top, right, bottom = distances.unbind(dim=1)
    return (left + right) * (top + bottom)


class IOULoss(nn.Module):
    """Sum of a loss on overlaps, optionally weighted.

    Args:
        loc_loss_type (str): ``"iou"`` for -log IoU, ``"linear_iou"`` for 1 - IoU, ``"giou"`` for
            1 - generalised IoU.

    Raises:
        ConfigError: ``loc_loss_type`` is unknown.
    """

    def __init__(self, loc_loss_type="iou"):
        super().__init__()
        if loc_loss_type not in ("iou", "linear_iou", "giou"):
            raise ConfigError(
                f"MODEL.FCOS.LOC_LOSS_TYPE is {loc_loss_type!r}; set it to iou, linear_iou or giou."
            )
        self.loc_loss_type = loc_loss_type

    def forward(self, ious, gious=None, weight=None):
        if self.loc_loss_type == "iou":
            losses = -ious.log()
        elif self.loc_loss_type == "linear_iou":
            losses = 1 - ious
        else:
            losses = 1 - gious
        if weight is not None:
            losses = losses * weight
        return losses.sum()
