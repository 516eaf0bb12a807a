"""Deformable convs without detectron2's extension, on torchvision's operator and any device.

Constructor, attributes, state-dict names and results match ``detectron2.layers.DeformConv``
(arXiv:1703.06211) and ``detectron2.layers.ModulatedDeformConv`` (arXiv:1811.11168).
"""

import torch
from detectron2.layers.wrappers import _NewEmptyTensorOp
from torch import nn
from torch.nn.modules.utils import _pair
from torchvision.ops import deform_conv2d

from ...errors import ConfigError


class _Deformable(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, groups, deformable_groups, bias):
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ConfigError(
                f"a deformable conv of {in_channels} to {out_channels} channels cannot have "
                f"{groups} groups: take a divisor of both."
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = _pair(kernel_size)
        self.groups, self.deformable_groups = groups, deformable_groups
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def _sample(self, x, offset, mask=None):
        how = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        if x.numel() == 0:
            return _NewEmptyTensorOp.apply(x, self._output_shape(x, **how))
        x = deform_conv2d(x, offset, self.weight, self.bias, mask=mask, **how)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x

    def _output_shape(self, x, stride, padding, dilation):
        sides = zip(x.shape[2:], self.kernel_size, _pair(stride), _pair(padding), _pair(dilation))
        return [x.shape[0], self.weight.shape[0]] + [
            (side + 2 * pad - step * (kernel - 1) - 1) // by + 1
            for side, kernel, by, pad, step in sides
        ]

    def extra_repr(self):
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
        values = [f"{n}={getattr(self, n)}" for n in (*names, "groups", "deformable_groups")]
        return ", ".join([*values, f"bias={self.bias is not None}"])


class DeformConv(_Deformable):
    """Deformable convolution: an offset moves each sample of the kernel.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in Conv2d.
        deformable_groups (int): groups of input channels, each with its own offsets.
        bias (bool): must be False; kept for upstream's signature.
        norm (nn.Module): applied to the output.
        activation (Callable): applied after the norm.

    Raises:
        ConfigError: ``bias`` is True, or ``groups`` does not divide the channels.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        deformable_groups=1,
        bias=False,
        norm=None,
        activation=None,
    ):
        if bias:
            raise ConfigError(
                "DeformConv has no bias: pass bias=False, or use ModulatedDeformConv."
            )
        super().__init__(in_channels, out_channels, kernel_size, groups, deformable_groups, False)
        self.stride, self.padding = _pair(stride), _pair(padding)
        self.dilation = _pair(dilation)
        self.norm, self.activation = norm, activation

    def forward(self, x, offset):
        """Convolve.

        Args:
            x (Tensor): (N, in_channels, H, W).
            offset (Tensor): (N, 2·deformable_groups·kh·kw, H', W'), in pixels, y before x.

        Returns:
            Tensor: (N, out_channels, H', W'); an empty ``x`` gives an empty tensor of that shape.
        """
        return self._sample(x, offset)


class ModulatedDeformConv(_Deformable):
    """Deformable convolution with a weight per sample.

    Args:
        bias (bool): whether to add a bias. The others are as in :class:`DeformConv`.

    Raises:
        ConfigError: ``groups`` does not divide the channels.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        deformable_groups=1,
        bias=True,
        norm=None,
        activation=None,
    ):
        super().__init__(in_channels, out_channels, kernel_size, groups, deformable_groups, bias)
        self.with_bias = bias
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.norm, self.activation = norm, activation

    def forward(self, x, offset, mask):
        """Convolve.

        Args:
            x (Tensor): (N, in_channels, H, W).
            offset (Tensor): (N, 2·deformable_groups·kh·kw, H', W'), in pixels, y before x.
            mask (Tensor): (N, deformable_groups·kh·kw, H', W'), the weights of the samples.

        Returns:
            Tensor: (N, out_channels, H', W'); an empty ``x`` gives an empty tensor of that shape.
        """
        return self._sample(x, offset, mask)
