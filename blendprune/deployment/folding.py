"""Folding: a conv that computes what a conv and its batch norm compute.

The norm becomes an ``nn.Identity`` in place, because others than its parent may hold it.
"""

import torch
from detectron2.layers import Conv2d
from torch import nn


class BareConv2d(Conv2d):
    """detectron2's ``Conv2d`` after folding, without the check of its norm on each call."""

    def forward(self, x):
        """Convolve (N, C, H, W), then activate."""
        x = self._conv_forward(x, self.weight, self.bias)
        return x if self.activation is None else self.activation(x)


def fold(pair):
    """Fold a norm into its conv, in place.

    Args:
        pair (NormPair): from :func:`blendprune.deployment.norm_pairs.find_norm_pairs`.
    """
    conv, norm = pair
    scale, shift = _affine(norm)
    weight, bias = _exact(conv.weight), 0 if conv.bias is None else _exact(conv.bias)
    if getattr(conv, "transposed", False):
        # (in, out / groups, …); the outputs of a group are those of its inputs.
        by = scale.view(conv.groups, 1, -1, *[1] * (weight.dim() - 2))
        scaled = (weight.unflatten(0, (conv.groups, -1)) * by).flatten(0, 1)
    else:
        scaled = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    like = conv.weight.detach()
    conv.weight = nn.Parameter(scaled.to(like), requires_grad=False)
    conv.bias = nn.Parameter((bias * scale + shift).to(like), requires_grad=False)
    _become_identity(norm)


def strip(conv):
    """Give a conv of detectron2 with a folded norm, or none, the shortest forward.

    Args:
        conv (nn.Module): any module; others stay as they are.
    """
    if type(conv) is Conv2d and (conv.norm is None or type(conv.norm) is nn.Identity):
        conv.norm = None
        conv.__class__ = BareConv2d


def _affine(norm):
    """Factor and offset per channel of a batch norm in eval mode."""
    scale = (_exact(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _exact(norm.weight)
    shift = -_exact(norm.running_mean) * scale
    return scale, shift if norm.bias is None else shift + _exact(norm.bias)


def _exact(tensor):
    # On the CPU: some accelerators have no double precision.
    return tensor.detach().to("cpu", torch.float64)


def _become_identity(norm):
    norm.__class__ = nn.Identity
    norm._parameters.clear()
    norm._buffers.clear()


def in_channels_last(model):
    """Lay the weights of two-dimensional convs out as (N, H, W, C) in memory, in place.

    Each conv then gives its output in this layout.

    Args:
        model (nn.Module): any model.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and "weight" in module._parameters:
            weight = module.weight
            weight.data = weight.detach().contiguous(memory_format=torch.channels_last)
