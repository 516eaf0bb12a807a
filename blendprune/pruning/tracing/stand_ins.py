"""Stand-ins: what the prunable view shows of a module, one operator that Torch-Pruning knows.

A stand-in is a class. A module class replaces the upstream class; a mixin is put in front of it.
:data:`STAND_INS` has one row per kind of module.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d, batch_norm
from torch import nn
from torchvision.ops import deform_conv2d

from ...modeling.attention import is_attention
from .attention import OneAttention, count_heads, remember_head_width
from .autograd import as_one_operator
from .composite import CompositeOperator
from .layer_kinds import (
    is_called,
    is_channels_first_norm,
    is_deformable,
    is_dynamic_head,
    is_fixed_norm,
    is_naive_group_norm,
)


class PlainConv:
    """Conv2d whose forward, and so whose hooks, see the convolution alone."""

    def forward(self, x):
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def __call__(self, *inputs):
        y = nn.Module.__call__(self, *inputs)
        if self.norm is not None:
            y = self.norm(y)
        if self.activation is not None:
            y = self.activation(y)
        return y


class PlainDeformConv(nn.Conv2d):
    """Deformable conv as one operator of torchvision's, which has a kernel for every device.

    Torch-Pruning knows what a Conv2d loses with a channel, and it is the same here. It would tie
    the channels of the offsets to those of the input, though; so in eval mode, which is what it
    traces, offsets and masks are cut off, and the layer that predicts them is a prediction layer.
    """

    transposed = False
    padding_mode = "zeros"

    def forward(self, x, offset, mask=None):
        if not self.training:
            offset = offset.detach()
            mask = None if mask is None else mask.detach()
        how = (self.stride, self.padding, self.dilation)
        return deform_conv2d(x, offset, self.weight, self.bias, *how, mask=mask)

    __call__ = PlainConv.__call__


class DynamicHead(CompositeOperator):
    """A head without weights of its own: another layer predicts them.

    The head is one operator, and the layer that predicts its weights is a prediction layer.
    """

    frozen_reason = "has weights for its channels"

    def forward(self, features, coords, weights):
        def run(features):
            return upstream(features, coords, fixed)

        if self.training:
            return super().forward(features, coords, weights)
        upstream, fixed = super().forward, weights.detach()
        return as_one_operator(self, run, features, ())


class FixedBatchNorm(nn.BatchNorm2d):
    """FrozenBatchNorm2d as a BatchNorm2d that always uses its fixed statistics."""

    has_fixed_weights = True

    _version = FrozenBatchNorm2d._version
    affine = True
    track_running_stats = True
    momentum = 0.0
    _load_from_state_dict = nn.Module._load_from_state_dict

    def forward(self, x):
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


class DepthwiseFilter(nn.Conv2d):
    """The fixed filter that LPF smooths with, a buffer called ``filt``, as a depthwise conv."""

    bias = None
    transposed = False
    padding_mode = "reflect"
    weight = property(lambda self: self.filt)

    def __setattr__(self, name, value):
        super().__setattr__("filt" if name == "weight" else name, value)

    def forward(self, x):
        return F.conv2d(self.pad(x), self.filt, stride=self.stride, groups=self.groups)


class OneGroupNorm(nn.GroupNorm):
    """A group norm written out in several operators, as the one operator."""


class OneLinear(nn.Linear):
    """A linear that is one operator on inputs of any rank."""

    def forward(self, x):
        if x.dim() <= 2:
            return super().forward(x)
        parameters = [p for p in (self.weight, self.bias) if p is not None]
        return as_one_operator(self, super().forward, x, parameters)


class OneLayerNorm(nn.LayerNorm):
    """detectron2's LayerNorm over the channels of (N, C, H, W), as the one operator."""

    elementwise_affine = True

    def forward(self, x):
        return as_one_operator(self, self._normalise, x, [self.weight, self.bias])

    def _normalise(self, x):
        return batch_norm.LayerNorm.forward(self, x)


def buffers_to_parameters(norm):
    """Show the fixed weights of a FrozenBatchNorm2d as parameters."""
    for name in ("weight", "bias"):
        buffer = norm._buffers.pop(name)
        norm._parameters[name] = nn.Parameter(buffer)
    if "num_features" not in vars(norm):
        # torchvision's; Torch-Pruning reads it.
        norm.num_features, norm.counts_nothing = len(buffer), True


def parameters_to_buffers(norm):
    """Undo :func:`buffers_to_parameters`."""
    buffers = {name: norm._parameters.pop(name).detach() for name in ("weight", "bias")}
    # In upstream's order: state_dict() lists the same keys in the same order.
    norm._buffers = type(norm._buffers)({**buffers, **norm._buffers})
    if vars(norm).pop("counts_nothing", False):
        del norm.num_features


def filter_to_weight(module):
    """Show a fixed filter as the weight of a depthwise conv."""
    filt = module._buffers.pop("filt")
    module._parameters["filt"] = nn.Parameter(filt)
    vars(module).update(dict.fromkeys(("in_channels", "out_channels", "groups"), len(filt)))


def weight_to_filter(module):
    """Undo :func:`filter_to_weight`."""
    module._buffers["filt"] = module._parameters.pop("filt").detach()
    for name in ("in_channels", "out_channels", "groups"):
        del vars(module)[name]


@dataclass(frozen=True)
class StandIn:
    """What the view shows in the place of one kind of module.

    Attributes:
        matches (Callable): whether a module is of this kind.
        shown_as (type): a module class, or a mixin that goes in front of the module's class.
        enter (Callable), leave (Callable): change a module when the view opens, and back.
    """

    matches: Callable
    shown_as: type
    enter: Callable = lambda module: None
    leave: Callable = lambda module: None


def _is_fused_conv(module):
    return isinstance(module, Conv2d) and (module.norm is not None or module.activation is not None)


def _is_linear(module):
    return type(module) is nn.Linear


def _is_smoothing(module):
    return is_called(module, "Downsample") and "filt" in module._buffers


# The first row that matches counts.
STAND_INS = (
    StandIn(_is_fused_conv, PlainConv),
    StandIn(is_deformable, PlainDeformConv),
    StandIn(_is_smoothing, DepthwiseFilter, filter_to_weight, weight_to_filter),
    StandIn(is_fixed_norm, FixedBatchNorm, buffers_to_parameters, parameters_to_buffers),
    StandIn(is_naive_group_norm, OneGroupNorm),
    StandIn(is_channels_first_norm, OneLayerNorm),
    StandIn(_is_linear, OneLinear),
    StandIn(is_dynamic_head, DynamicHead),
    StandIn(is_attention, OneAttention, remember_head_width, count_heads),
)
