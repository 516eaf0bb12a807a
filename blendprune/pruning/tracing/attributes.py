"""Attributes of upstream modules that repeat a width: they follow the layers."""

import torch
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone import Backbone
from torch import nn

from ...errors import PruningError
from ...modeling.attention import fit_heads
from .hooks import evaluating, forward_hooks


def sync_attributes(model):
    """Make the attributes that upstream reads agree with the widths of the layers.

    Covers ``CNNBlockBase.in_channels`` / ``out_channels``, ``Backbone._out_feature_channels`` (and
    so ``output_shape()``), ``in_channels_to_top_module`` of FCOS and its head, and ``out_channels``
    of BiFPN. Dicts are replaced, never changed: a shallow copy of ``vars(module)`` is enough to go
    back.

    Args:
        model (nn.Module): a detectron2-style model; its backbones run once on a small zero image.

    Raises:
        PruningError: a BiFPN has a width that its forward would misread.
    """
    sync_widths(model)
    for backbone in _outermost_backbones(model):
        _sync_backbone(backbone)


def sync_widths(model):
    """The part of :func:`sync_attributes` that needs no forward: what forwards read.

    Args:
        model (nn.Module): a detectron2-style model.

    Raises:
        PruningError: a BiFPN has a width that its forward would misread.
    """
    fit_heads(model)
    for backbone in _outermost_backbones(model):
        for module in backbone.modules():
            _sync_fusion(module)
    for head in model.modules():
        if hasattr(head, "in_channels_to_top_module") and hasattr(head, "bbox_pred"):
            head.in_channels_to_top_module = head.bbox_pred.in_channels
    for module in model.modules():
        if hasattr(module, "in_channels_to_top_module") and hasattr(module, "fcos_head"):
            module.in_channels_to_top_module = module.fcos_head.in_channels_to_top_module


def _sync_fusion(module):
    # AdelaiDet's BiFPN tells by the width of an input whether it has to project it.
    children = dict(module.named_children())
    if "repeated_bifpn" in children:
        last = module.repeated_bifpn[-1]
        module.out_channels = next(
            conv.out_channels for name, conv in last.named_children() if name.startswith("outputs_")
        )
    outputs = [conv for name, conv in children.items() if name.startswith("outputs_f")]
    if not outputs or not isinstance(getattr(module, "out_channels", None), int):
        return
    module.out_channels = outputs[0].out_channels
    for name, conv in children.items():
        if name.startswith("lateral_") and conv.in_channels == module.out_channels:
            raise PruningError(
                f"BiFPN and one of its inputs came out at {conv.in_channels} channels both, and "
                f"upstream would leave out {name}, which projects it; ask for a slightly "
                "different target"
            )


def _outermost_backbones(model):
    found, inside = [], set()
    for module in model.modules():
        if isinstance(module, Backbone) and module not in inside:
            found.append(module)
            inside.update(module.modules())
    return found


def _is_leaf(module):
    inside = [m for m in module.modules() if isinstance(m, Backbone)]
    return inside == [module]


def _sync_backbone(backbone):
    # Only a forward tells which layer feeds which named feature, for every kind of backbone.
    # The backbone that sees the image contains no other. BiFPN lists it before its own repeats,
    # which are backbones, too.
    innermost = next(m for m in backbone.modules() if _is_leaf(m))
    first = next((m for m in innermost.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        return
    channels = {}

    def record(module, inputs, output):
        if isinstance(output, torch.Tensor) and output.dim() == 4:
            width_in = inputs[0].shape[1] if isinstance(inputs[0], torch.Tensor) else None
            channels[module] = (width_in, output.shape[1])
        elif isinstance(output, dict):
            channels[module] = {name: x.shape[1] for name, x in output.items()}

    watched = [m for m in backbone.modules() if isinstance(m, (CNNBlockBase, Backbone))]
    for module in list(watched):
        names = getattr(module, "_out_feature_channels", {})
        watched += [child for name, child in module.named_children() if name in names]
    side = max(64, 2 * (backbone.size_divisibility or 1))
    with evaluating(backbone), forward_hooks(dict.fromkeys(watched), record):
        backbone(first.weight.new_zeros(1, first.in_channels, side, side))

    for module in watched:
        if isinstance(module, CNNBlockBase) and isinstance(channels.get(module), tuple):
            module.in_channels, module.out_channels = channels[module]
        if hasattr(module, "_out_feature_channels"):
            module._out_feature_channels = _feature_channels(module, channels)


def _feature_channels(backbone, channels):
    features = dict(backbone._out_feature_channels)
    children = dict(backbone.named_children())
    for name in features:
        if name in channels.get(backbone, {}):
            features[name] = channels[backbone][name]
        elif isinstance(channels.get(children.get(name)), tuple):
            features[name] = channels[children[name]][1]
    return features
