"""SOLOv2 of AdelaiDet: categories and kernels of the cells of grids, and one map of masks.

The heads run here layer by layer: upstream's own forward makes coordinates by ``torch.linspace``,
whose length an exporter fixes.
"""

import torch
from torch.nn import functional as F

from . import schema
from .family import FAMILY_REGISTRY, Family, refuse_part, runs_as
from .parts import COUNT, IMAGE, LEVELS, STRIDES, image_core, image_settings

_METHODS = ("forward", "inference", "inference_single_image", "split_feats")


@FAMILY_REGISTRY.register()
class SOLOv2(Family):
    """One core."""

    settings = schema.record(
        image=IMAGE,
        levels=LEVELS,
        grids=schema.list_of(schema.integer(1, 4096), most=16),
        strides=STRIDES,
        score_threshold=schema.number(),
        mask_threshold=schema.number(),
        max_candidates=COUNT,
        nms=schema.one_of("matrix", "mask"),
        nms_kernel=schema.one_of("gaussian", "linear"),
        nms_sigma=schema.number(),
        min_score=schema.number(),
        max_detections=COUNT,
    )

    @classmethod
    def matches(cls, model):
        return all(runs_as(model, method, "SOLOv2") for method in _METHODS)

    @classmethod
    def take_apart(cls, model):
        for part, known in ((model.ins_head, "SOLOv2InsHead"), (model.mask_head, "SOLOv2MaskHead")):
            if not runs_as(part, "forward", known):
                raise refuse_part(model, part)
        levels, mask_levels = list(model.instance_in_features), list(model.mask_in_features)

        def heads(core, features):
            found = _grids(core.ins_head, _split([features[level] for level in levels]))
            masks = _masks(core.mask_head, [features[level] for level in mask_levels])
            return [*(each for kind in found for each in kind), masks]

        parts = {"ins_head": model.ins_head, "mask_head": model.mask_head}
        outputs = [f"{kind}_{level}" for kind in ("categories", "kernels") for level in levels]
        return {"image": image_core(model, parts, heads, [*outputs, "masks"])}, {
            "image": image_settings(model),
            "levels": levels,
            "grids": [int(grid) for grid in model.num_grids],
            "strides": [int(stride) for stride in model.instance_strides],
            "score_threshold": float(model.score_threshold),
            "mask_threshold": float(model.mask_threshold),
            "max_candidates": int(model.max_before_nms),
            "nms": model.nms_type,
            # Upstream takes any other name for a Gaussian.
            "nms_kernel": "linear" if model.nms_kernel == "linear" else "gaussian",
            "nms_sigma": float(model.nms_sigma),
            "min_score": float(model.update_threshold),
            "max_detections": int(model.max_per_img),
        }


def _grids(head, maps):
    """Categories and kernels of each level: two lists of maps of the size of its grid."""
    categories, kernels = [], []
    for x, grid in zip(maps, head.num_grids):
        x = F.interpolate(_with_coordinates(x), size=(grid, grid), mode="bilinear")
        kernels.append(head.kernel_pred(head.kernel_tower(x)))
        categories.append(head.cate_pred(head.cate_tower(x[:, :-2])))
    return categories, kernels


def _masks(head, maps):
    """The map that kernels are convolved with, as large as the finest level."""
    total = 0
    for i, (convs, x) in enumerate(zip(head.convs_all_levels, maps)):
        total = total + convs(_with_coordinates(x) if i == 3 else x)
    return head.conv_pred(total)


def _with_coordinates(x):
    """Maps (N, C, H, W) with two more channels: x and y, from -1 to 1."""
    across, down = (_from_minus_one(x.shape[dim], x) for dim in (3, 2))
    shape = (x.shape[0], 1, x.shape[2], x.shape[3])
    return torch.cat([x, across.expand(shape), down[:, None].expand(shape)], dim=1)


def _from_minus_one(count, like):
    numbers = torch.arange(count, dtype=like.dtype, device=like.device)
    return numbers / numbers[-1:].clamp(min=1) * 2 - 1


def _split(maps):
    """Upstream's ``split_feats``: the first map at half its size, the last one as large as p5."""
    # Linear resizing to a half takes the mean of 2 x 2, which an exporter writes for any size.
    first = F.avg_pool2d(maps[0], 2)
    last = F.interpolate(maps[4], size=maps[3].shape[-2:], mode="bilinear")
    return [first, *maps[1:4], last]
