"""What the prunable view shows of a module: one operator that Torch-Pruning knows.

Classes that stand in the place of an upstream class or, if they are no modules by themselves, in
front of it; and below, what the view does to a module on entering and undoes on leaving.
"""

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d, batch_norm
from torch import nn
from torchvision.ops import deform_conv2d

from ...modeling.attention import OneOperator, attend


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


class DynamicHead:
    """A head whose weights another layer predicts: one operator, and that layer a prediction."""

    def forward(self, features, coords, weights):
        def run(features):
            return upstream(features, coords, fixed)

        if self.training:
            return super().forward(features, coords, weights)
        upstream, fixed = super().forward, weights.detach()
        return _as_one_operator(self, run, features, ())


class FixedBatchNorm(nn.BatchNorm2d):
    """FrozenBatchNorm2d as a BatchNorm2d that never leaves its fixed statistics."""

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


def _as_one_operator(module, run, x, parameters):
    # Training builds the usual graph: nothing is traced there, and nothing is computed twice.
    if module.training or not torch.is_grad_enabled():
        return run(x)
    return OneOperator.apply(run, module, x, *parameters)


class OneLinear(nn.Linear):
    """A linear that is one operator on inputs of any rank."""

    def forward(self, x):
        if x.dim() <= 2:
            return super().forward(x)
        parameters = [p for p in (self.weight, self.bias) if p is not None]
        return _as_one_operator(self, super().forward, x, parameters)


class OneLayerNorm(nn.LayerNorm):
    """detectron2's LayerNorm over the channels of (N, C, H, W), as the one operator."""

    elementwise_affine = True

    def forward(self, x):
        return _as_one_operator(self, self._normalise, x, [self.weight, self.bias])

    def _normalise(self, x):
        return batch_norm.LayerNorm.forward(self, x)


class OneAttention:
    """Attention whose graph is ``qkv``, one operator, ``proj``."""

    @property
    def num_heads(self):
        return self.proj.in_features // self._head_width

    def forward(self, x, *inputs, **options):
        def run(qkv):
            return attend(self, qkv, shown, *inputs, **options)

        shown = x.detach()
        parameters = [
            p for name, p in self.named_parameters() if name.split(".")[0] not in ("qkv", "proj")
        ]
        return self.proj(_as_one_operator(self, run, self.qkv(x), parameters))


def remember_head_width(module):
    vars(module)["_head_width"] = module.proj.in_features // vars(module).pop("num_heads")


def count_heads(module):
    num_heads = module.num_heads
    del module._head_width
    vars(module)["num_heads"] = num_heads


def stay(module):
    pass


def buffers_to_parameters(module):
    for name in ("weight", "bias"):
        buffer = module._buffers.pop(name)
        module._parameters[name] = nn.Parameter(buffer)


def parameters_to_buffers(module):
    buffers = {name: module._parameters.pop(name).detach() for name in ("weight", "bias")}
    # In upstream's order, so that state_dict() lists the same keys in the same order.
    module._buffers = type(module._buffers)({**buffers, **module._buffers})


def filter_to_weight(module):
    filt = module._buffers.pop("filt")
    module._parameters["filt"] = nn.Parameter(filt)
    vars(module).update(dict.fromkeys(("in_channels", "out_channels", "groups"), len(filt)))


def weight_to_filter(module):
    module._buffers["filt"] = module._parameters.pop("filt").detach()
    for name in ("in_channels", "out_channels", "groups"):
        del vars(module)[name]
