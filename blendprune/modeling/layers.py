"""Head layers that detectron2 lacks."""

import torch
from detectron2.layers import get_norm
from torch import nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d


class Scale(nn.Module):
    """Multiply by one learned factor. State-dict key: ``scale``, shape (1,)."""

    def __init__(self, init_value=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([float(init_value)]))

    def forward(self, x):
        return x * self.scale


class ModuleListDial(nn.ModuleList):
    """A module list whose forward runs its entries in turn, one per call.

    In a head that all pyramid levels share, it gives each level its own norm. The levels must call
    it in a fixed order, once each.
    """

    def __init__(self, modules=None):
        super().__init__(modules)
        self.cur_position = 0

    def forward(self, x):
        position = self.cur_position
        self.cur_position = (position + 1) % len(self)
        return self[position](x)


class NaiveGroupNorm(nn.Module):
    """Group normalisation (arXiv:1803.08494) from basic operations, for exporters that lack it.

    Args:
        num_groups (int): number of groups of channels.
        num_channels (int): channels of the input; a multiple of ``num_groups``.
        eps (float): added to the variance.
        affine (bool): learn a factor and an offset per channel.
    """

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        super().__init__()
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None

    def forward(self, x):
        """Normalise a tensor of shape (N, C, H, W)."""
        grouped = x.reshape(x.shape[0], self.num_groups, -1)
        mean, squares = (y.mean(dim=2, keepdim=True) for y in (grouped, grouped.square()))
        # This form gives AdelaiDet's results bit by bit. Rounding may make it negative.
        variance = (squares - mean.square()).clamp(min=0)
        x = ((grouped - mean) / torch.sqrt(variance + self.eps)).reshape(x.shape)
        if self.affine:
            x = x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return x

    def extra_repr(self):
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class DFConv2d(nn.Module):
    """Modulated deformable 3x3 conv (arXiv:1811.11168) that predicts its own offsets and mask.

    Runs on any device. State-dict keys: ``offset.{weight,bias}`` of 27 channels (18 offsets, then
    9 mask logits) and ``conv.{weight,bias}``.

    Args:
        in_channels (int): input channels.
        out_channels (int): output channels.
    """

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.offset = nn.Conv2d(in_channels, 27, kernel_size=3, padding=1)
        nn.init.kaiming_uniform_(self.offset.weight, a=1)
        nn.init.zeros_(self.offset.bias)
        self.conv = _DeformableWeights(in_channels, out_channels)

    def forward(self, x):
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        offset, mask = self.offset(x).split((18, 9), dim=1)
        return self.conv(x, offset, mask.sigmoid())


class _DeformableWeights(nn.Module):
    # Not an nn.Conv2d, because the head re-initializes those.
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x, offset, mask):
        return deform_conv2d(x, offset, self.weight, self.bias, padding=1, mask=mask)


def conv_norm_relu(in_channels, out_channels, norm):
    """Build a 3x3 conv, its norm and a ReLU, initialized like Caffe2's XavierFill.

    Args:
        in_channels (int): input channels.
        out_channels (int): output channels.
        norm (str or None): a name that detectron2's ``get_norm`` knows. ``None`` gives the conv a
            bias instead; ``""`` gives it neither.

    Returns:
        nn.Sequential: conv, norm if any, ReLU.
    """
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=norm is None)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if norm is None:
        nn.init.zeros_(conv.bias)
    norm_layer = get_norm(norm, out_channels) if norm else None
    parts = [conv, norm_layer, nn.ReLU(inplace=True)]
    return nn.Sequential(*(part for part in parts if part is not None))


def resize_to(x, size):
    """Resize (N, C, H, W) bilinearly to ``size`` (height, width), corners not aligned."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
