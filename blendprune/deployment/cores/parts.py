"""What several families have in common: the image, semantic heads, poolers, anchors."""

import torch
from torch import nn

from . import schema
from .core import Core
from .family import refuse_part, runs_as
from .picture import PICTURE, picture_settings

_IMAGE = schema.record(
    pixel_mean=schema.list_of(schema.number()),
    pixel_std=schema.list_of(schema.number(1e-9)),
    size_divisibility=schema.integer(0, 4096),
    square_size=schema.integer(0, 65536),
    # Files of earlier versions lack it.
    picture=schema.optional(PICTURE),
)


def IMAGE(value, where):  # noqa: N802
    """How images are prepared: one mean and one standard deviation per channel."""
    found = _IMAGE(value, where)
    channels = len(found["pixel_mean"])
    schema.list_of(schema.anything, channels, channels)(found["pixel_std"], f"{where}.pixel_std")
    return found


LEVELS = schema.list_of(schema.name, most=16)
STRIDES = schema.list_of(schema.integer(1, 65536), most=16)
SIDE = schema.integer(1, 1024)
COUNT = schema.integer(1, 2**31)
#: Which boxes of all locations are kept.
KEPT = {
    "score_threshold": schema.number(),
    "max_candidates": COUNT,
    "nms_threshold": schema.number(),
    "max_detections": schema.integer(),
}


class ImageCore(nn.Module):
    """Backbone and heads: from normalised images to the raw outputs.

    Args:
        backbone (nn.Module): from images to a dict of feature maps.
        parts (dict[str, nn.Module]): what ``heads`` runs; they become attributes.
        heads (Callable): from this module and the feature maps to a list of tensors.
    """

    def __init__(self, backbone, parts, heads):
        super().__init__()
        self.backbone = backbone
        for name, part in parts.items():
            setattr(self, name, part)
        self._heads = heads

    def forward(self, images):
        """Map (N, C, H, W) to the raw outputs."""
        return tuple(self._heads(self, self.backbone(images)))


def image_core(model, parts, heads, outputs, multiples=None):
    """The core that sees whole images.

    Args:
        model (nn.Module): with a ``backbone``.
        parts (dict[str, nn.Module]): what ``heads`` runs; they become attributes of the module.
        heads (Callable): from the module and a dict of feature maps to a list of tensors.
        outputs (list[str]): their names.
        multiples (list[int]): what height and width must be multiples of, if the heads take no
            other sizes.

    Returns:
        Core: of (N, C, H, W), normalised and padded.
    """
    settings = image_settings(model)
    module = ImageCore(model.backbone, parts, heads).eval()
    channels, square = len(settings["pixel_mean"]), settings["square_size"]
    out = {name: ("batch", None, f"height_{name}", f"width_{name}") for name in outputs}
    if square:
        return Core(module, {"images": ("batch", channels, square, square)}, out, {}, {"batch": 2})
    divisibility = max(settings["size_divisibility"], 1)
    multiples = dict(zip(("height", "width"), multiples or (divisibility, divisibility)))
    # An exporter takes a map of one row for one that always has one row.
    coarsest = max(shape.stride for shape in model.backbone.output_shape().values())
    sizes = {
        side: -(-rows * coarsest // multiples[side]) * multiples[side]
        for side, rows in (("height", 2), ("width", 3))
    }
    return Core(
        module,
        {"images": ("batch", channels, "height", "width")},
        out,
        multiples,
        {"batch": 2, **sizes},
    )


def image_settings(model):
    """How a model prepares its images.

    Args:
        model (nn.Module): with ``pixel_mean`` and ``pixel_std``, or a ``normalizer``.

    Returns:
        dict: see ``IMAGE``; numbers as they are in float32.
    """
    mean, std = _normalisation(model)
    # AdelaiDet's models do not ask for this.
    constraints = model.backbone.padding_constraints if hasattr(model, "pixel_mean") else {}
    divisibility = constraints.get("size_divisibility", model.backbone.size_divisibility)
    return {
        "pixel_mean": numbers(mean),
        "pixel_std": numbers(std),
        "size_divisibility": int(divisibility),
        "square_size": int(constraints.get("square_size", 0)),
        "picture": picture_settings(model),
    }


def _normalisation(model):
    if hasattr(model, "pixel_mean"):
        return model.pixel_mean, model.pixel_std
    normalizer = model.normalizer
    if hasattr(normalizer, "mean"):
        return normalizer.mean, normalizer.std
    # Upstream's lambda: its cells are the only place of these tensors.
    names = getattr(getattr(normalizer, "__code__", None), "co_freevars", ())
    cells = dict(zip(names, normalizer.__closure__ or ())) if names else {}
    if not {"pixel_mean", "pixel_std"} <= cells.keys():
        raise refuse_part(model, normalizer)
    return cells["pixel_mean"].cell_contents, cells["pixel_std"].cell_contents


def numbers(tensor):
    """A tensor of any shape as a list of numbers."""
    return torch.as_tensor(tensor).detach().flatten().tolist()


SEM_SEG = schema.record(stride=schema.integer(1, 1024))
COMBINE = schema.record(
    overlap=schema.number(), stuff_area=schema.number(), instance_score=schema.number()
)
_SEM_SEG_HEADS = ("SemSegFPNHead", "DeepLabV3Head", "DeepLabV3PlusHead")


def sem_seg_settings(model, head):
    """How the logits of a semantic head become those of the image.

    Args:
        model (nn.Module): that has the head.
        head (nn.Module): see :func:`sem_seg_logits`.

    Returns:
        dict: see ``SEM_SEG``.

    Raises:
        DeployError: it is of another class than upstream's.
    """
    if not runs_as(head, "forward", *_SEM_SEG_HEADS):
        raise refuse_part(model, head)
    return {"stride": int(head.common_stride)}


def sem_seg_logits(head, features):
    """Run a semantic head up to the logits that its forward enlarges.

    Args:
        head (nn.Module): detectron2's, or DeepLab's.
        features (dict[str, Tensor]): feature maps.

    Returns:
        Tensor: (N, K, H, W).
    """
    if hasattr(head, "layers"):
        return head.layers(features)
    return head.predictor(head.aspp(features[head.in_features[0]]))


POOLER = schema.record(
    output_size=schema.list_of(SIDE, 2, 2),
    scales=schema.list_of(schema.number(1e-6, 1), most=16),
    sampling_ratio=schema.integer(0, 64),
    type=schema.one_of("ROIAlign", "ROIAlignV2", "ROIPool"),
    canonical_size=schema.number(1e-6, 1e6),
    canonical_level=schema.integer(0, 64),
)


def pooler_settings(model, pooler):
    """How regions are cropped.

    Args:
        model (nn.Module): that has the pooler.
        pooler (ROIPooler): detectron2's.

    Returns:
        dict: see ``POOLER``.

    Raises:
        DeployError: it is of another class than upstream's, or pools rotated boxes.
    """
    levels = getattr(pooler, "level_poolers", [None])
    kind = type(levels[0]).__name__
    if not runs_as(pooler, "forward", "ROIPooler") or kind not in ("ROIAlign", "RoIPool"):
        raise refuse_part(model, pooler)
    names = {False: "ROIAlign", True: "ROIAlignV2"}
    return {
        "output_size": [int(side) for side in pooler.output_size],
        "scales": [float(level.spatial_scale) for level in levels],
        "sampling_ratio": int(getattr(levels[0], "sampling_ratio", 0)),
        "type": "ROIPool" if kind == "RoIPool" else names[levels[0].aligned],
        "canonical_size": float(pooler.canonical_box_size),
        "canonical_level": int(pooler.canonical_level),
    }


ANCHORS = schema.record(
    cells=schema.list_of(schema.list_of(schema.list_of(schema.number(), 4, 4)), most=16),
    strides=schema.list_of(schema.integer(1, 65536), most=16),
    offset=schema.number(0, 1),
)


def anchor_settings(model, generator):
    """The anchors of each level.

    Args:
        model (nn.Module): that has the generator.
        generator (DefaultAnchorGenerator): detectron2's.

    Returns:
        dict: see ``ANCHORS``; ``"cells"`` are the anchors of one cell, around (0, 0).

    Raises:
        DeployError: it is of another class than upstream's.
    """
    if not runs_as(generator, "_grid_anchors", "DefaultAnchorGenerator"):
        raise refuse_part(model, generator)
    return {
        "cells": [cell.tolist() for cell in generator.cell_anchors],
        "strides": [int(stride) for stride in generator.strides],
        "offset": float(generator.offset),
    }


DELTAS = schema.record(
    type=schema.one_of("Box2BoxTransform", "Box2BoxTransformLinear"),
    weights=schema.list_of(schema.number(1e-6, 1e6), 4, 4),
    scale_clamp=schema.number(),
    normalize_by_size=schema.boolean,
)


def delta_settings(model, transform):
    """How boxes are coded relative to anchors.

    Args:
        model (nn.Module): that has the transform.
        transform (Box2BoxTransform | Box2BoxTransformLinear): detectron2's.

    Returns:
        dict: see ``DELTAS``; what a type does not have is as if it had no effect.

    Raises:
        DeployError: it is of another class than upstream's.
    """
    kind = type(transform).__name__
    if not runs_as(transform, "apply_deltas", "Box2BoxTransform", "Box2BoxTransformLinear"):
        raise refuse_part(model, transform)
    return {
        "type": kind,
        "weights": [float(w) for w in getattr(transform, "weights", (1, 1, 1, 1))],
        "scale_clamp": float(getattr(transform, "scale_clamp", 0)),
        "normalize_by_size": bool(getattr(transform, "normalize_by_size", False)),
    }
