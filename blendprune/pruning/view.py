"""The prunable view: a model shown in a form that Torch-Pruning's DependencyGraph can follow.

DependencyGraph maps each module to the ``grad_fn`` of its output, so a module must be one operator.
detectron2's ``Conv2d`` runs its norm and activation inside its own ``forward``, FrozenBatchNorm2d
has buffers where parameters are expected, and so has what LPF smooths with, NaiveGroupNorm and the
LayerNorm of channels-first maps are several operators, a linear on more than two dimensions is
three, and attention is a dozen between two linears. Inside the view each of them is one standard
torch module, and what attention does between its linears is one operator; it is the same object as
before, because FPN (and users) hold references to modules that a replacement would miss. Only
``module.__class__`` is swapped.
"""

import contextlib
import functools
import sys

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d, batch_norm
from torch import nn
from torchvision.ops import deform_conv2d

from ..attention import OneOperator, attend, is_attention
from .attributes import sync_attributes


@contextlib.contextmanager
def prunable(model):
    """Show ``model`` to Torch-Pruning as plain convs and norms, and fold it back on leaving.

    Inside, every parameter requires grad (also of frozen stages, and the weights of FrozenBN),
    state-dict keys are unchanged, and outputs are the same (FrozenBN: to rounding). On leaving,
    by an exception too, classes, ``requires_grad`` flags and training modes are what they were;
    where widths changed, attributes that upstream reads (``output_shape()``, …) follow them.
    Views nest.

    Args:
        model (nn.Module): changed in place while the view is open.

    Yields:
        nn.Module: ``model`` itself.

    Example::

        with blendprune.prunable(model):
            pruner = tp.pruner.MagnitudePruner(model, inputs, ..., forward_fn=head_outputs)
            pruner.step()
    """
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    modes = [(module, module.training) for module in model.modules()]
    before = _shapes(model)
    entered = []
    try:
        for module in list(model.modules()):
            row = _row_of(module)
            if row is not None:
                plain, (_, _, enter, leave) = type(module), row
                module.__class__ = _view_class(plain, row[1])
                entered.append((module, plain, leave))
                enter(module)
        for p in model.parameters():
            if p.is_floating_point():
                p.requires_grad_(True)
        yield model
    finally:
        for module, plain, leave in reversed(entered):
            leave(module)
            module.__class__ = plain
        for name, p in model.named_parameters():
            if p.is_floating_point():
                p.requires_grad_(flags.get(name, True))
        for module, mode in modes:
            module.training = mode
        if _shapes(model) != before:
            # A half-done cut may not run; the exception under way says more than this one would.
            failing = sys.exc_info()[0] is not None
            with contextlib.suppress(Exception) if failing else contextlib.nullcontext():
                sync_attributes(model)


def _shapes(model):
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


class _PlainConv:
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


class _PlainDeformConv(nn.Conv2d):
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

    __call__ = _PlainConv.__call__


class _DynamicHead:
    """A head whose weights another layer predicts: one operator, and that layer a prediction."""

    def forward(self, features, coords, weights):
        def run(features):
            return upstream(features, coords, fixed)

        if self.training:
            return super().forward(features, coords, weights)
        upstream, fixed = super().forward, weights.detach()
        return _as_one_operator(self, run, features, ())


class _FixedBatchNorm(nn.BatchNorm2d):
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


class _DepthwiseFilter(nn.Conv2d):
    """The fixed filter that LPF smooths with, a buffer called ``filt``, as a depthwise conv."""

    bias = None
    transposed = False
    padding_mode = "reflect"
    weight = property(lambda self: self.filt)

    def __setattr__(self, name, value):
        super().__setattr__("filt" if name == "weight" else name, value)

    def forward(self, x):
        return F.conv2d(self.pad(x), self.filt, stride=self.stride, groups=self.groups)


class _OneGroupNorm(nn.GroupNorm):
    """A group norm written out in several operators, as the one operator."""


def _as_one_operator(module, run, x, parameters):
    # Training builds the usual graph: nothing is traced there, and nothing is computed twice.
    if module.training or not torch.is_grad_enabled():
        return run(x)
    return OneOperator.apply(run, module, x, *parameters)


class _OneLinear(nn.Linear):
    """A linear that is one operator on inputs of any rank."""

    def forward(self, x):
        if x.dim() <= 2:
            return super().forward(x)
        parameters = [p for p in (self.weight, self.bias) if p is not None]
        return _as_one_operator(self, super().forward, x, parameters)


class _OneLayerNorm(nn.LayerNorm):
    """detectron2's LayerNorm over the channels of (N, C, H, W), as the one operator."""

    elementwise_affine = True

    def forward(self, x):
        return _as_one_operator(self, self._normalise, x, [self.weight, self.bias])

    def _normalise(self, x):
        return batch_norm.LayerNorm.forward(self, x)


class _OneAttention:
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


def _remember_head_width(module):
    vars(module)["_head_width"] = module.proj.in_features // vars(module).pop("num_heads")


def _count_heads(module):
    num_heads = module.num_heads
    del module._head_width
    vars(module)["num_heads"] = num_heads


def _stay(module):
    pass


def _buffers_to_parameters(module):
    for name in ("weight", "bias"):
        buffer = module._buffers.pop(name)
        module._parameters[name] = nn.Parameter(buffer)


def _parameters_to_buffers(module):
    buffers = {name: module._parameters.pop(name).detach() for name in ("weight", "bias")}
    # In upstream's order, so that state_dict() lists the same keys in the same order.
    module._buffers = type(module._buffers)({**buffers, **module._buffers})


def _filter_to_weight(module):
    filt = module._buffers.pop("filt")
    module._parameters["filt"] = nn.Parameter(filt)
    vars(module).update(dict.fromkeys(("in_channels", "out_channels", "groups"), len(filt)))


def _weight_to_filter(module):
    module._buffers["filt"] = module._parameters.pop("filt").detach()
    for name in ("in_channels", "out_channels", "groups"):
        del vars(module)[name]


def _is_fused_conv(module):
    return isinstance(module, Conv2d) and (module.norm is not None or module.activation is not None)


def _is_frozen_norm(module):
    return isinstance(module, FrozenBatchNorm2d)


def _is_naive_group_norm(module):
    return _is_called(module, "NaiveGroupNorm")


def _is_channels_first_norm(module):
    return _is_called(module, "LayerNorm") and not isinstance(module, nn.LayerNorm)


def _is_linear(module):
    return type(module) is nn.Linear


def is_dynamic_head(module):
    """Whether the module is a head of implicit PointRend, which has no weights of its own."""
    return _is_called(module, "ImplicitPointHead")


def _is_smoothing(module):
    return _is_called(module, "Downsample") and "filt" in module._buffers


def _is_deformable(module):
    return _is_called(module, "DeformConv", "ModulatedDeformConv")


def _is_called(module, *names):
    # By name, so that AdelaiDet need not be installed, nor detectron2 compiled.
    return any(cls.__name__ in names for cls in type(module).__mro__)


# One row a type: which modules, the class they show, what to do on entering and on leaving.
_ROWS = (
    (_is_fused_conv, _PlainConv, _stay, _stay),
    (_is_deformable, _PlainDeformConv, _stay, _stay),
    (_is_smoothing, _DepthwiseFilter, _filter_to_weight, _weight_to_filter),
    (_is_frozen_norm, _FixedBatchNorm, _buffers_to_parameters, _parameters_to_buffers),
    (_is_naive_group_norm, _OneGroupNorm, _stay, _stay),
    (_is_channels_first_norm, _OneLayerNorm, _stay, _stay),
    (_is_linear, _OneLinear, _stay, _stay),
    (is_dynamic_head, _DynamicHead, _stay, _stay),
    (is_attention, _OneAttention, _remember_head_width, _count_heads),
)


def _row_of(module):
    if getattr(type(module), "_blendprune_view", False):
        return None
    return next((row for row in _ROWS if row[0](module)), None)


@functools.cache
def _view_class(plain, shown):
    # A mixin goes in front of the class it alters; a full module class stands in its place.
    bases = (shown,) if issubclass(shown, nn.Module) else (shown, plain)
    return type(f"Prunable{plain.__name__}", bases, {"_blendprune_view": True})


def is_prunable_layer(module):
    """Whether the module has an output width that is its own to choose (a conv or a linear)."""
    return isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) or _is_deformable(module)


def is_norm(module):
    """Whether the module normalises channels and so follows the width of its input."""
    return isinstance(
        module,
        (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, FrozenBatchNorm2d),
    ) or (_is_naive_group_norm(module) or _is_channels_first_norm(module))


def is_fixed_norm(module):
    """Whether the module is a FrozenBatchNorm2d, inside the prunable view or outside."""
    return isinstance(module, (FrozenBatchNorm2d, _FixedBatchNorm))


@contextlib.contextmanager
def evaluating(model, grad=False):
    """Eval mode for every module, modes restored on leaving; gradients on or off as asked."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.set_grad_enabled(grad):
            yield model
    finally:
        for module, mode in modes:
            module.training = mode
