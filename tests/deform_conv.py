"""Deformable convs on the CPU, where detectron2's own are not compiled or have no CPU kernel.

Same constructor, attributes and parameters as ``detectron2.layers.DeformConv`` (arXiv:1703.06211)
and ``ModulatedDeformConv`` (arXiv:1811.11168); the operator is ``torchvision.ops.deform_conv2d``.
"""

import torch
from detectron2 import layers
from detectron2.modeling.backbone import resnet
from torch import nn
from torchvision.ops import deform_conv2d


def install():
    """Build deformable blocks with the convs of this file; before AdelaiDet is imported."""
    for module in (resnet, layers):
        module.DeformConv, module.ModulatedDeformConv = DeformConv, ModulatedDeformConv


class _Deformable(nn.Module):
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
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = (kernel_size, kernel_size)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups, self.deformable_groups = groups, deformable_groups
        self.norm, self.activation = norm, activation
        shape = (out_channels, in_channels // groups, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x, offset, mask=None):
        how = (self.stride, self.padding, self.dilation)
        x = deform_conv2d(x, offset, self.weight, self.bias, *how, mask=mask)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


class DeformConv(_Deformable):
    """Deformable conv; forward takes the map and the offsets."""


class ModulatedDeformConv(_Deformable):
    """Deformable conv whose samples are weighted; forward takes a mask as well."""
