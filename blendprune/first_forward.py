"""A model's first forward in training, and what its script builds before.

This is for scripts without a trainer: they pass their loader and their optimizer nowhere.
"""

import functools
import sys
import weakref

import torch

from .wrappers import unwrap

_waiting = weakref.WeakSet()  # models before their first forward in training
_ending = weakref.WeakSet()  # those of them whose training ends there
_optimizers = weakref.WeakKeyDictionary()  # such a model → weak reference to its optimizer
_loader = None  # the last one that was recorded


def record_loader(loader, wanted=False):
    """Remember a training loader, if a model waits for its first forward.

    Args:
        loader (Iterable): the script's.
        wanted (bool): remember it in any case.
    """
    global _loader
    if _waiting or wanted:
        _loader = loader


def record_optimizer(model, optimizer):
    """Remember the optimizer of a model, if the model waits for its first forward.

    Args:
        model (nn.Module): wrapped or not.
        optimizer (torch.optim.Optimizer): the script's.
    """
    if unwrap(model) in _waiting:
        _optimizers[unwrap(model)] = weakref.ref(optimizer)


def on_first_training_forward(model, function, ends=False):
    """Call a function once, before the first forward in training mode with gradients.

    Args:
        model (nn.Module): the hook stays on this object when DistributedDataParallel wraps it.
        function (Callable): called with the model, and with the loader and the optimizer that were
            recorded, or None. It may register forward hooks; they take part in that forward.
        ends (bool): whether it ends the process, see :func:`ends_at_first_forward`.
    """
    _waiting.add(model)
    if ends:
        _ending.add(model)
    hook = _FirstForward(function)
    model.blendprune_first_forward = model.register_forward_pre_hook(hook, with_kwargs=True)


def ends_at_first_forward(model):
    """Whether the training of a model ends with its first forward, before anything is trained.

    Args:
        model (nn.Module): wrapped or not.
    """
    return unwrap(model) in _ending


def forget_first_forward(model):
    """Cancel :func:`on_first_training_forward`, if it was called for the model."""
    _waiting.discard(model)
    _ending.discard(model)
    handle = model.__dict__.pop("blendprune_first_forward", None)
    if handle is not None:
        handle.remove()


def run_eagerly(function):
    """Keep ``torch.compile`` from tracing a function: it runs as it is, between two graphs.

    ``torch.compiler.disable`` does that, but its import takes seconds where nothing is compiled.

    Args:
        function (Callable): a hook, for example.

    Returns:
        Callable: the same to its callers.
    """

    @functools.wraps(function)
    def run(*args, **kwargs):
        compiling = "torch._dynamo" in sys.modules
        return (torch.compiler.disable(function) if compiling else function)(*args, **kwargs)

    run._torchdynamo_disable = True
    return run


def run_new_hooks(model, known, args, kwargs):
    """Run the pre-hooks that a pre-hook of a running forward has registered.

    Upstream collects a module's pre-hooks before it runs the first of them.

    Args:
        model (nn.Module): inside its forward.
        known (Collection): keys of the hooks that upstream runs.
        args (tuple), kwargs (dict): the forward's arguments.

    Returns:
        tuple[tuple, dict]: the arguments, which hooks may have replaced.
    """
    for key, hook in [(k, h) for k, h in model._forward_pre_hooks.items() if k not in known]:
        if key in model._forward_pre_hooks_with_kwargs:
            args, kwargs = hook(model, args, kwargs) or (args, kwargs)
        else:
            found = hook(model, args)
            if found is not None:
                args = found if isinstance(found, tuple) else (found,)
    return args, kwargs


class _FirstForward:
    def __init__(self, function):
        self.function = function

    @run_eagerly
    def __call__(self, model, args, kwargs):
        if not (model.training and torch.is_grad_enabled()):
            return None
        global _loader
        known = set(model._forward_pre_hooks)
        forget_first_forward(model)
        loader, _loader = _loader, None
        self.function(model, loader, _optimizers.pop(model, lambda: None)())
        return run_new_hooks(model, known, args, kwargs)
