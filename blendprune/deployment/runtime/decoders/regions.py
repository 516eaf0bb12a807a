"""Anchors, deltas and poolers from plain settings."""

import torch
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import nn


def pooler_of(settings):
    """The module that crops regions of feature maps.

    Args:
        settings (dict): of a pooler.

    Returns:
        ROIPooler: detectron2's.
    """
    return ROIPooler(
        output_size=tuple(settings["output_size"]),
        scales=settings["scales"],
        sampling_ratio=settings["sampling_ratio"],
        pooler_type=settings["type"],
        canonical_box_size=settings["canonical_size"],
        canonical_level=settings["canonical_level"],
    )


def deltas_of(settings):
    """The code of boxes relative to anchors.

    Args:
        settings (dict): of box deltas.

    Returns:
        Box2BoxTransform | Box2BoxTransformLinear: detectron2's.
    """
    if settings["type"] == "Box2BoxTransformLinear":
        return Box2BoxTransformLinear(settings["normalize_by_size"])
    return Box2BoxTransform(tuple(settings["weights"]), settings["scale_clamp"])


class Anchors(nn.Module):
    """The anchors of each level, in the order of detectron2's ``DefaultAnchorGenerator``.

    Args:
        settings (dict): of anchors.
    """

    def __init__(self, settings):
        super().__init__()
        self._cells = [torch.tensor(cell) for cell in settings["cells"]]
        self._strides, self._offset = settings["strides"], settings["offset"]

    def forward(self, maps):
        """Anchors of feature maps: by row, by column, by anchor of the cell.

        Args:
            maps (list[Tensor]): (N, C, H, W) of each level; only H and W count.

        Returns:
            list[Boxes]: H * W * A of each level.
        """
        levels = zip(maps, self._cells, self._strides)
        return [Boxes(self._of_level(*x.shape[2:], cell, s)) for x, cell, s in levels]

    def _of_level(self, height, width, cell, stride):
        x, y = (
            torch.arange(n, dtype=torch.float32) * stride + self._offset * stride
            for n in (width, height)
        )
        y, x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack([x, y, x, y], dim=2).view(-1, 1, 4)
        return (shifts + cell).view(-1, 4)
