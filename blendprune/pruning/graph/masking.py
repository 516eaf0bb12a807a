"""Channels masked: the dense model gives what it will give once they are removed."""

import contextlib
import copy

import torch
from torch import nn

from ..tracing.hooks import forward_hooks
from ..tracing.layer_kinds import input_width


@contextlib.contextmanager
def masking(gone):
    """Compute as if channels of groups were removed, with all layers at their widths.

    The channels are zero wherever a conv or a linear reads them. Norms that mix channels (group
    norm, layer norm) normalise over the others only.

    Args:
        gone (list[tuple[ChannelGroup, Tensor]]): groups of a model inside the prunable view, and
            of each the channels, indices in ``range(width)``.
    """
    masks, mixed = {}, {}
    for group, channels in gone:
        for side in group.sides:
            entries = side.entries_of(channels)
            if side.reads:
                masks.setdefault(side.layer, []).append(entries)
            elif isinstance(side.layer, (nn.GroupNorm, nn.LayerNorm)):
                mixed.setdefault(side.layer, []).append(entries)
    masks = {layer: _mask(layer, torch.cat(entries)) for layer, entries in masks.items()}
    narrow = {norm: _narrow(norm, torch.cat(entries)) for norm, entries in mixed.items()}

    def mask(layer, inputs):
        x, *rest = inputs
        wide = masks[layer]
        if not isinstance(layer, nn.Linear):
            wide = wide.view(-1, *[1] * (x.dim() - 2))
        return x * wide, *rest

    def normalise(norm, inputs, output):
        narrowed, kept = narrow[norm]
        dim = _channel_dim(norm, inputs[0])
        few = narrowed.forward(inputs[0].index_select(dim, kept))
        return torch.zeros_like(output).index_copy(dim, kept, few)

    with forward_hooks(masks, mask, before=True), forward_hooks(narrow, normalise):
        yield


def _mask(layer, entries):
    mask = layer.weight.new_ones(input_width(layer))
    mask[entries] = 0
    return mask


def _narrow(norm, entries):
    """The norm over the other entries, and their numbers."""
    layer_norm = isinstance(norm, nn.LayerNorm)
    count = norm.normalized_shape[-1] if layer_norm else norm.num_channels
    device = next(norm.parameters(), torch.empty(0)).device
    kept = torch.ones(count, dtype=torch.bool)
    kept[entries] = False
    kept = kept.nonzero().flatten().to(device)
    narrowed = copy.copy(norm)
    narrowed._parameters = {
        name: None if p is None else p[..., kept] for name, p in norm._parameters.items()
    }
    if layer_norm:
        narrowed.normalized_shape = (*norm.normalized_shape[:-1], len(kept))
    else:
        narrowed.num_channels = len(kept)
    return narrowed, kept


def _channel_dim(norm, x):
    if not isinstance(norm, nn.LayerNorm):
        return 1
    # Layer norms over the channels of a map come as subclasses.
    count = norm.normalized_shape[-1]
    last = x.shape[-1] == count and not (x.dim() == 4 and type(norm) is not nn.LayerNorm)
    return -1 if last or x.shape[1] != count else 1
