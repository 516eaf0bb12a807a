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
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from ...modeling.attention import is_attention
from . import stand_ins as shown
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
    (_is_fused_conv, shown.PlainConv, shown.stay, shown.stay),
    (_is_deformable, shown.PlainDeformConv, shown.stay, shown.stay),
    (_is_smoothing, shown.DepthwiseFilter, shown.filter_to_weight, shown.weight_to_filter),
    (
        _is_frozen_norm,
        shown.FixedBatchNorm,
        shown.buffers_to_parameters,
        shown.parameters_to_buffers,
    ),
    (_is_naive_group_norm, shown.OneGroupNorm, shown.stay, shown.stay),
    (_is_channels_first_norm, shown.OneLayerNorm, shown.stay, shown.stay),
    (_is_linear, shown.OneLinear, shown.stay, shown.stay),
    (is_dynamic_head, shown.DynamicHead, shown.stay, shown.stay),
    (is_attention, shown.OneAttention, shown.remember_head_width, shown.count_heads),
)


def _row_of(module):
    if getattr(type(module), "_blendprune_view", False):
        return None
    return next((row for row in _ROWS if row[0](module)), None)


@functools.cache
def _view_class(plain, stand_in):
    # A mixin goes in front of the class it alters; a full module class stands in its place.
    bases = (stand_in,) if issubclass(stand_in, nn.Module) else (stand_in, plain)
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
    return isinstance(module, (FrozenBatchNorm2d, shown.FixedBatchNorm))


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
