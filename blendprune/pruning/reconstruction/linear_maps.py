"""Layers as linear maps: the inputs of each position of the output, and the matrix.

A row holds the inputs or outputs of one position of one call. With G groups, the map takes rows of
(G, inputs) to rows of (G, outputs) by a matrix of (G, outputs, inputs); depthwise convs and the
scale of a norm are maps with as many groups as channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d

from ..tracing.stand_ins import OneLayerNorm, PlainDeformConv


def linear_map(layer):
    """The linear map of a layer, or None for a layer of another kind.

    Args:
        layer (nn.Module): inside the prunable view.

    Returns:
        LinearMap | None: for linears, 2-d convs (grouped, transposed, deformable), and norms that
        take their statistics from the image itself (GN, LN).
    """
    row = next((row for row in _ROWS if isinstance(layer, row[0])), None)
    if row is None or getattr(layer, "weight", None) is None:
        return None
    found = row[1](layer)
    return found if found.applies() else None


class LinearMap:
    """A linear: rows are the vectors of the last dimension."""

    channels = -1

    def __init__(self, layer):
        self.layer = layer

    def applies(self):
        return True

    @property
    def groups(self):
        return getattr(self.layer, "groups", 1)

    def count(self, y):
        """Number of positions of an output."""
        return y.numel() // max(y.shape[self.channels], 1)

    def outputs(self, y, where):
        """Rows of the output, or of a tensor of its shape: (positions, channels)."""
        return y.movedim(self.channels, -1).flatten(0, -2)[where]

    def inputs(self, args, where):
        """Inputs of the rows: (positions, G, inputs)."""
        return args[0].flatten(0, -2)[where][:, None]

    def blank(self, args):
        """An output of NaN, for inputs that need not be looked at."""
        return args[0].new_full((*args[0].shape[:-1], len(self.layer.weight)), math.nan)

    def matrix(self):
        """(G, outputs, inputs)."""
        return self.layer.weight.detach().flatten(1)[None]

    def set_matrix(self, matrix):
        """Give the layer a new weight; the old one is not written into."""
        self.layer.weight = nn.Parameter(self._weight(matrix))

    def _weight(self, matrix):
        return matrix.reshape(self.layer.weight.shape)

    def output_channels(self, entries, shape):
        """Which outputs pruning has kept.

        Args:
            entries (Tensor): of the weight's shape, positions of its entries in the flattened
                weight before pruning.
            shape (tuple[int]): of the weight before pruning.

        Returns:
            Tensor: (outputs,).
        """
        return entries.flatten(1)[:, 0] // torch.Size(shape[1:]).numel()


class _Conv(LinearMap):
    """A 2-d conv: rows are positions of the map, and each sees a window of the input."""

    channels = 1

    def applies(self):
        return self.layer.padding_mode == "zeros" and not isinstance(self.layer.padding, str)

    def inputs(self, args, where):
        (py, px), strides, dilations = self.layer.padding, self.layer.stride, self.layer.dilation
        x = F.pad(args[0], (px, px, py, py))
        return _windows(x, self.layer.kernel_size, strides, dilations, self.groups, where)

    def blank(self, args):
        return args[0].new_full((len(args[0]), self._width(), *self._sides(args[0])), math.nan)

    def _width(self):
        return len(self.layer.weight)

    def _sides(self, x):
        layer = self.layer
        sizes = x.shape[2:], layer.kernel_size, layer.stride, layer.padding, layer.dilation
        return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(*sizes)]

    def matrix(self):
        weight = self.layer.weight.detach()
        return weight.reshape(self.groups, -1, weight[0].numel())


class _TransposedConv(_Conv):
    """A conv over the input with zeros between its positions, with a flipped kernel."""

    def applies(self):
        return super().applies() and self.groups == 1

    def inputs(self, args, where):
        layer, x = self.layer, args[0]
        sides = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], layer.stride)]
        spread = x.new_zeros(*x.shape[:2], *sides)
        spread[:, :, :: layer.stride[0], :: layer.stride[1]] = x
        pads = [
            d * (k - 1) - p for d, k, p in zip(layer.dilation, layer.kernel_size, layer.padding)
        ]
        more = [pad + extra for pad, extra in zip(pads, layer.output_padding)]
        spread = F.pad(spread, (pads[1], more[1], pads[0], more[0]))
        return _windows(spread, layer.kernel_size, (1, 1), layer.dilation, 1, where)

    def _width(self):
        return self.layer.weight.shape[1]

    def _sides(self, x):
        layer = self.layer
        sizes = x.shape[2:], layer.kernel_size, layer.stride, layer.padding, layer.dilation
        more = layer.output_padding
        return [
            (n - 1) * s - 2 * p + d * (k - 1) + m + 1
            for (n, k, s, p, d), m in zip(zip(*sizes), more)
        ]

    def matrix(self):
        return self.layer.weight.detach().flip(2, 3).transpose(0, 1).flatten(1)[None]

    def _weight(self, matrix):
        weight = self.layer.weight
        kernels = matrix.view(weight.shape[1], weight.shape[0], *weight.shape[2:])
        return kernels.transpose(0, 1).flip(2, 3)

    def output_channels(self, entries, shape):
        return entries[0, :, 0, 0] // torch.Size(shape[2:]).numel() % shape[1]


class _DeformableConv(_Conv):
    """A deformable conv with a kernel of one weight gives the inputs of that weight."""

    def inputs(self, args, where):
        layer, (x, *offsets) = self.layer, args
        channels, (height, width) = x.shape[1], layer.kernel_size
        how = (layer.stride, layer.padding, layer.dilation)
        seen = []
        for tap in range(height * width):
            alone = x.new_zeros(channels, 1, height * width)
            alone[:, :, tap] = 1
            alone = alone.view(channels, 1, height, width)
            y = deform_conv2d(x, offsets[0], alone, None, *how, mask=(offsets + [None])[1])
            seen.append(self.outputs(y, where))
        return torch.stack(seen, -1).reshape(len(where), self.groups, -1)


class _Norm(LinearMap):
    """The scale of a layer norm, channel by channel."""

    @property
    def groups(self):
        return self.layer.weight.numel()

    def applies(self):
        return self.layer.bias is not None and len(self.layer.normalized_shape) == 1

    def inputs(self, args, where):
        x = args[0].movedim(self.channels, -1)
        y = F.layer_norm(x, self.layer.normalized_shape, eps=self.layer.eps)
        return y.flatten(0, -2)[where][..., None]

    def blank(self, args):
        return torch.full_like(args[0], math.nan)

    def matrix(self):
        return self.layer.weight.detach()[:, None, None]

    def output_channels(self, entries, shape):
        return entries


class _ChannelsFirstNorm(_Norm):
    """The scale of detectron2's layer norm over the channels of a map."""

    channels = 1


class _GroupNorm(_Norm):
    """The scale of a group norm, channel by channel."""

    channels = 1

    def applies(self):
        return self.layer.bias is not None

    def inputs(self, args, where):
        y = F.group_norm(args[0], self.layer.num_groups, eps=self.layer.eps)
        return self.outputs(y, where)[..., None]


def _windows(x, kernel, stride, dilation, groups, where):
    """Windows of a padded map: (positions, groups, channels / groups · kernel)."""
    height, width = (
        (n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation)
    )
    image, place = where // (height * width), where % (height * width)
    top, left = place // width * stride[0], place % width * stride[1]
    x = x.permute(0, 2, 3, 1)
    seen = [
        x[image, top + i * dilation[0], left + j * dilation[1]]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    return torch.stack(seen, -1).reshape(len(where), groups, -1)


# The first that fits counts.
_ROWS = (
    (PlainDeformConv, _DeformableConv),
    (nn.Linear, LinearMap),
    (nn.ConvTranspose2d, _TransposedConv),
    (nn.Conv2d, _Conv),
    (nn.GroupNorm, _GroupNorm),
    (OneLayerNorm, _ChannelsFirstNorm),
    (nn.LayerNorm, _Norm),
)
