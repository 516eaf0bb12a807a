"""What every entry point does first: refuse models that cannot work, undo the caller's modes."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar, overload

import torch

from ...errors import PruningError
from ...wrappers import given_model
from .layer_kinds import is_norm
from .snapshot import keeping_buffers

Function = TypeVar("Function", bound=Callable[..., Any])


# What it returns is called as the function is.
@overload
def entry_point(function: Function) -> Function: ...


@overload
def entry_point(*, changes_widths: bool) -> Callable[[Function], Function]: ...


def entry_point(function=None, *, changes_widths=False):
    """Make a function of a model work in whatever mode it is called.

    It runs outside autocast, ``no_grad`` and ``inference_mode``, with the model's dtype as the
    default and the CPU as the default device. The caller's modes are back when it returns.

    Args:
        function (Callable): its first argument is a model; it gets the one inside any wrapper.
        changes_widths (bool): warn of a wrapper that was made for the old widths.

    Returns:
        Callable: raises ConfigError for what is no model, and PruningError for a model that is on
        the meta device, in half precision, scripted, sharded, or made of inference tensors.
    """

    if function is None:
        return functools.partial(entry_point, changes_widths=changes_widths)

    @functools.wraps(function)
    def run(model, *args, **kwargs):
        model = given_model(model, changes_widths)
        refuse_unprunable(model)
        with usual_modes(model), keeping_buffers(model):
            return function(model, *args, **kwargs)

    return run


def refuse_unprunable(model):
    """Refuse a model whose weights or code cannot be worked with.

    Args:
        model (nn.Module): to be pruned, planned or measured.

    Raises:
        PruningError: it has no parameters, or is on the meta device, in half precision, scripted,
            sharded, or made of inference tensors.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise PruningError(
                f"{name or 'the model'} is a torch.jit.ScriptModule, whose layers cannot be "
                "traced: prune the model first, then script it"
            )
        # By names, of FSDP and of fully_shard: to import them takes seconds.
        kinds = {type(p).__name__ for p in module.parameters(recurse=False)}
        if "_fsdp_wrapped_module" in module._modules or "DTensor" in kinds:
            raise PruningError(
                f"{name or 'the model'} is sharded by FSDP, and no process has its whole weights: "
                "prune the model first, then shard it"
            )
    if next(model.parameters(), None) is None:
        raise PruningError(
            f"{type(model).__name__} has no parameters, so nothing can be pruned: pass the "
            "detector itself"
        )
    refuse_meta(model, PruningError)
    for name, p in model.named_parameters():
        if p.is_inference():
            raise PruningError(
                f"{name} was made inside torch.inference_mode and takes no gradients: build or "
                "load the model outside of it"
            )
        if p.is_floating_point() and p.dtype not in (torch.float32, torch.float64):
            raise PruningError(
                f"{name} is {str(p.dtype).removeprefix('torch.')}: prune in float32 "
                "(model.float()), and go back to half precision afterwards"
            )


def refuse_meta(model, kind):
    """Refuse a model whose parameters have no numbers.

    Args:
        model (nn.Module): any model.
        kind (type): of the error.

    Raises:
        BlendpruneError: of that kind; a parameter is on the meta device.
    """
    for name, p in model.named_parameters():
        if p.is_meta:
            raise kind(
                f"{name} is on the meta device and has no numbers: move the model with "
                "model.to_empty(device='cpu') and load its weights first"
            )


def refuse_nonfinite(model):
    """Refuse weights that hold NaN or Inf.

    Args:
        model (nn.Module): outside or inside the prunable view.

    Raises:
        PruningError: names the first such tensor, and how many there are.
    """
    wrong = {}
    for prefix, module in model.named_modules():
        for name, tensor in _own_tensors(module):
            # Buffers may hold Inf on purpose, such as masks of attention.
            if name in module._parameters or is_norm(module):
                fine = tensor.isfinite()
            else:
                fine = ~tensor.isnan()
            if not fine.all():
                wrong[f"{prefix}.{name}" if prefix else name] = (~fine).sum(), fine.numel()
    if wrong:
        name, (count, total) = next(iter(wrong.items()))
        more = {1: "", 2: ", and 1 other tensor does"}
        others = more.get(len(wrong), f", and {len(wrong) - 1} other tensors do")
        raise PruningError(
            f"{name} holds {count} NaN or Inf among {total} numbers{others}: load a checkpoint "
            "from before the training diverged"
        )


def _own_tensors(module):
    tensors = [*module._parameters.items(), *module._buffers.items()]
    return [(name, t) for name, t in tensors if t is not None and t.is_floating_point()]


def default_device():
    """Type of torch's default device (str), also where ``set_default_device(None)`` has set it."""
    try:
        return torch.get_default_device().type
    except AttributeError:  # of None, in torch 2.6
        return "cpu"


@contextlib.contextmanager
def usual_modes(model):
    """Run a block as at the top of a script, whatever modes the caller has set.

    Args:
        model (nn.Module): its first floating-point parameter says which dtype is the default.
    """
    with contextlib.ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for kind in {"cpu", *(p.device.type for p in model.parameters())}:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        if default_device() != "cpu":
            modes.enter_context(torch.device("cpu"))
        wanted = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        modes.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(wanted)
        yield
