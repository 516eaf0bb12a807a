"""The prunable view: a model shown in a form that Torch-Pruning's DependencyGraph can follow.

DependencyGraph maps each module to the ``grad_fn`` of its output: a module must be one operator.
Some of upstream's are not. detectron2's ``Conv2d`` runs its norm and activation in its own
``forward``. FrozenBatchNorm2d has buffers where parameters are expected. NaiveGroupNorm and the
LayerNorm of channels-first maps are several operators; so are a linear on more than two dimensions
and attention. Inside the view each of them is one standard torch module or one operator
(:mod:`blendprune.pruning.tracing.stand_ins`). Weights that are computed from other parameters
(weight norm) are parameters there (:mod:`blendprune.pruning.tracing.folding`).

Only ``module.__class__`` is swapped. The object stays the same: FPN (and users) hold references to
modules, and a replacement would miss these.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn

from ...structure import entries_of, remember_dense
from ...wrappers import given_model, is_compiled
from .attributes import sync_attributes
from .folding import folded_weights
from .hooks import keeping_modes
from .stand_ins import STAND_INS

Model = TypeVar("Model", bound=nn.Module)


@contextlib.contextmanager
def prunable(model: Model) -> Iterator[Model]:
    """Show ``model`` to Torch-Pruning as plain convs and norms; undo it on leaving.

    Inside, every parameter requires grad (frozen stages and the weights of FrozenBN, too),
    state-dict keys are unchanged (but for computed weights, such as weight norm's), and outputs are
    the same (FrozenBN: to rounding). On leaving, also by an exception, classes, ``requires_grad``
    flags and training modes are restored. Where widths changed, the attributes that upstream reads
    (``output_shape()``, …) follow them.
    Views nest. A compiled model, or part, runs without its compiler. The model remembers the widths
    that it had before its first pruning, for the ``"struct"`` of its checkpoints.

    Args:
        model (nn.Module): changed in place while the view is open; wrapped or not.

    Yields:
        nn.Module: ``model`` itself.

    Example::

        with blendprune.prunable(model):
            pruner = tp.pruner.MagnitudePruner(model, inputs, ..., forward_fn=head_outputs)
            pruner.step()
    """
    given, model = model, given_model(model)
    before, dense = _shapes(model), entries_of(model)
    try:
        with keeping_modes(model), _uncompiled(given), _stand_ins(model):
            yield given
    finally:
        if _shapes(model) != before:
            remember_dense(model, dense)
            # After an exception the model may be half pruned and not run; that exception says more.
            failing = sys.exc_info()[0] is not None
            with contextlib.suppress(Exception) if failing else contextlib.nullcontext():
                sync_attributes(model)


@contextlib.contextmanager
def _uncompiled(model):
    """Run compiled modules as they were before, so that every operator is seen."""
    in_place = [m for m in model.modules() if getattr(m, "_compiled_call_impl", None) is not None]
    calls = [(module, module._compiled_call_impl) for module in in_place]
    wrapped = any(map(is_compiled, model.modules()))
    for module in in_place:
        module._compiled_call_impl = None
    try:
        # Its import takes seconds, and only a compiled model has paid for it.
        with torch.compiler.set_stance("force_eager") if wrapped else contextlib.nullcontext():
            yield
    finally:
        for module, call in calls:
            module._compiled_call_impl = call


@contextlib.contextmanager
def _stand_ins(model):
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    entered, folds = [], contextlib.ExitStack()
    try:
        folds.enter_context(folded_weights(model))
        for module in list(model.modules()):
            stand_in = _stand_in_of(module)
            if stand_in is not None:
                plain = type(module)
                module.__class__ = _view_class(plain, stand_in.shown_as)
                entered.append((module, plain, stand_in))
                stand_in.enter(module)
        for p in model.parameters():
            if p.is_floating_point():
                p.requires_grad_(True)
        yield
    finally:
        for module, plain, stand_in in reversed(entered):
            stand_in.leave(module)
            module.__class__ = plain
        folds.close()
        for name, p in model.named_parameters():
            if p.is_floating_point():
                p.requires_grad_(flags.get(name, True))


def _shapes(model):
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def _stand_in_of(module):
    if getattr(type(module), "_blendprune_view", False):
        return None
    return next((row for row in STAND_INS if row.matches(module)), None)


@functools.cache
def _view_class(plain, shown_as):
    bases = (shown_as,) if issubclass(shown_as, nn.Module) else (shown_as, plain)
    return type(f"Prunable{plain.__name__}", bases, {"_blendprune_view": True})
