"""Half precision for the tensor core; what comes before and behind it stays in float32."""

import contextlib

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import DeployError, error_line
from ..pruning.tracing.hooks import forward_hooks
from ..pruning.tracing.layer_kinds import is_prunable_layer
from ..pruning.tracing.snapshot import Snapshot
from .norm_pairs import is_foldable_norm


class InHalf:
    """A method that takes and gives float32, and works in half precision.

    Args:
        method (Callable): from tensors to tensors.
        dtype (torch.dtype): that it works in.
    """

    def __init__(self, method, dtype):
        self.method, self.dtype = method, dtype

    def __call__(self, *args, **kwargs):
        """Run the method; only floating-point tensors are converted."""
        args, kwargs = _converted((args, kwargs), torch.float32, self.dtype)
        return _converted(self.method(*args, **kwargs), self.dtype, torch.float32)


def to_half(model, find, run, dtype):
    """Convert the weights of the core, in place, and what goes into it and comes out.

    A part that does not run in this dtype stays in float32; the parts inside it are tried instead.
    Batch norms that were not folded keep float32: their variances can exceed half precision.

    Args:
        model (nn.Module): in float32.
        find (PartFinder): of the model.
        run (Callable): runs the model on an example, in all ways that inference has.
        dtype (torch.dtype): ``torch.float16`` or ``torch.bfloat16``.

    Returns:
        FoundParts: what runs in this dtype.

    Raises:
        DeployError: a weight or an output is too large for the dtype, or no part runs in it.
    """
    names = {module: name for name, module in model.named_modules()}
    layers = [module for module in names if is_prunable_layer(module)]
    finite, before, refused = _finite_outputs(layers, run), Snapshot(model), {}
    while model not in refused and (core := find(refused)).parts:
        for module in core.modules:
            if not is_foldable_norm(module):
                _convert_own(module, dtype, names[module])
        for part in core.parts:
            part.wrap(lambda method: InHalf(method, dtype))
        mixed, convert = {}, _Conversion(dtype)
        try:
            with _recording_mixed_inputs(core, convert, mixed):
                overflowing = finite - _finite_outputs(layers, run)
        except Exception as error:
            before.restore()
            refused[_failing_part(error, model)] = error
            continue
        for layer in mixed:
            layer.register_forward_pre_hook(convert)
        for layer in layers:
            if layer in overflowing:
                raise DeployError(
                    f"{names[layer]} gives numbers that are too large for {_name(dtype)}: "
                    f"{_advice(dtype)}"
                )
        return core
    why = f" ({error_line(next(iter(refused.values())))})" if refused else ""
    raise DeployError(
        f"no part of {type(model).__name__} runs in {_name(dtype)}{why}: deploy it without dtype"
    )


def _finite_outputs(layers, run):
    """The layers that give only finite numbers."""
    wrong = set()

    def look(layer, args, output):
        if isinstance(output, torch.Tensor) and not output.isfinite().all():
            wrong.add(layer)

    with forward_hooks(layers, look):
        run()
    return set(layers) - wrong


def _convert_own(module, dtype, name):
    for table in (module._parameters, module._buffers):
        for key, tensor in table.items():
            if tensor is None or not tensor.is_floating_point():
                continue
            found = tensor.detach().to(dtype)
            if not torch.equal(found.isfinite(), tensor.isfinite()):
                raise DeployError(
                    f"{name}.{key} has numbers up to {float(tensor.abs().max()):.3g}, too large "
                    f"for {_name(dtype)}: {_advice(dtype)}"
                )
            if isinstance(tensor, nn.Parameter):
                found = nn.Parameter(found, requires_grad=False)
            table[key] = found


@contextlib.contextmanager
def _recording_mixed_inputs(core, convert, mixed):
    """Convert what reaches a layer of the core in float32, as maps of coordinates do.

    The layers that need it become keys of ``mixed``.
    """

    def record(layer, args):
        found = convert(layer, args)
        if any(a is not b for a, b in zip(tree_leaves(args), tree_leaves(found))):
            mixed[layer] = None
        return found

    layers = [module for module in core.modules if _works_in(module, convert.dtype)]
    with forward_hooks(layers, record, before=True):
        yield


def _failing_part(error, model):
    """The part that was running when an exception came; the model itself if none was."""
    traceback = error.__traceback__
    while traceback is not None:
        running = traceback.tb_frame.f_locals.get("self")
        if isinstance(running, InHalf):
            return running.method.__self__
        traceback = traceback.tb_next
    return model


def _works_in(module, dtype):
    return any(p is not None and p.dtype == dtype for p in module._parameters.values())


class _Conversion:
    """A forward pre-hook; an object of a class can be copied and pickled."""

    def __init__(self, dtype):
        self.dtype = dtype

    def __call__(self, layer, args):
        return _converted(args, torch.float32, self.dtype)


def _converted(value, old, new):
    return tree_map_only(torch.Tensor, lambda x: x.to(new) if x.dtype == old else x, value)


def _name(dtype):
    return str(dtype).removeprefix("torch.")


def _advice(dtype):
    wider = dtype == torch.float16
    return "pass dtype=torch.bfloat16" if wider else "deploy the model without dtype"
