"""A device that computes on the CPU and refuses tensors of the CPU beside its own, as CUDA does.

It shows where code makes a tensor on the wrong device, on a machine without a GPU. PyTorch lets a
Python class be a device; its tensors say ``pretended:0``. It stays until the process ends.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

NAME = "pretended"

_aten = torch.ops.aten
# CUDA, too, takes tensors of the CPU here: copies, and indices.
_TAKES_BOTH = {
    _aten.copy_.default,
    _aten._to_copy.default,
    _aten.index.Tensor,
    _aten._unsafe_index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten.set_.source_Tensor,
    _aten.set_.source_Storage,
}
_MAKES_TENSORS = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy)
_kept = []


def is_supported():
    """Whether this PyTorch lets a Python class be a device."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


def enable():
    """Make the device known; ``torch.device(NAME)`` is it."""
    if _kept:
        return
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    # What PyTorch calls below the modes, for example for an index that is a Python list.
    library = torch.library.Library("aten", "IMPL")
    for name, kernel in (
        ("empty.memory_format", _empty),
        ("empty_strided", _empty_strided),
        ("_copy_from", _copy_from),
        ("_local_scalar_dense", lambda x: x.inner.item()),
    ):
        library.impl(name, kernel, "PrivateUse1")
    _kept.extend([library, _Operators(), _Constructors()])
    for mode in _kept[1:]:
        mode.__enter__()


class PretendedTensor(torch.Tensor):
    """A tensor of the device around one of the CPU, ``inner``."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"PretendedTensor({self.inner})"

    def __reduce_ex__(self, protocol):
        # In a file it is a tensor like any other, which loads onto the CPU.
        return self.inner.__reduce_ex__(protocol)

    def tolist(self):
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Operators(TorchDispatchMode):
    """Runs the operators that read tensors of the device, or make some."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = _tensors((*args, *kwargs.values()))
        if any(isinstance(x, PretendedTensor) for x in tensors) or _is_ours(kwargs.get("device")):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


class _Constructors(TorchFunctionMode):
    """Functions that make their tensor below the dispatcher make it here, and move it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in _MAKES_TENSORS and _is_ours(kwargs.get("device")):
            device = kwargs.pop("device")
            if isinstance(args[0], PretendedTensor):
                return args[0]
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.new_tensor and isinstance(args[0], PretendedTensor):
            kwargs = {"dtype": args[0].dtype, **kwargs}
            device = kwargs.pop("device", NAME)
            return torch.tensor(args[1], **kwargs).to(device)
        return func(*args, **kwargs)


def _is_ours(device):
    return isinstance(device, (str, torch.device)) and torch.device(device).type == NAME


def _run(func, args, kwargs):
    tensors = _tensors((*args, *kwargs.values()))
    ours = [x for x in tensors if isinstance(x, PretendedTensor)]
    device = kwargs.get("device")
    to_us = bool(ours) if device is None else _is_ours(device)
    if len(ours) < len(tensors) and ours:
        _refuse_mixture(func, tensors)
    generator = kwargs.get("generator")
    if to_us and generator is not None and generator.device.type == "cpu":
        raise RuntimeError(f"Expected a '{NAME}' generator but found one of the CPU ({func})")

    inner_kwargs = {key: _inner(value) for key, value in kwargs.items() if key != "non_blocking"}
    if _is_ours(device):
        inner_kwargs["device"] = torch.device("cpu")
    if "pin_memory" in inner_kwargs:
        inner_kwargs["pin_memory"] = False
    result = func(*map(_inner, args), **inner_kwargs)

    changed = args[0] if args and isinstance(args[0], PretendedTensor) else None
    if changed is not None and torch.Tag.inplace_view in func.tags:
        # The outer tensor has a shape of its own, which must follow.
        with torch.utils._mode_utils.no_dispatch():
            func(*args, **kwargs)
        return changed
    if changed is not None and result is changed.inner and func._schema.is_mutable:
        return changed
    if not to_us:
        return result
    wrapped = _wrapped(result)
    if ours and any(value.alias_info for value in func._schema.returns):
        return return_and_correct_aliasing(func, args, kwargs, wrapped)
    return wrapped


# Arguments of operators are values, or lists of them. PyTorch's own tools for trees of any kind
# take most of the time.
def _tensors(values):
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [x for x in value if isinstance(x, torch.Tensor)]
    return found


def _inner(value):
    if isinstance(value, PretendedTensor):
        return value.inner
    return type(value)(map(_inner, value)) if isinstance(value, (list, tuple)) else value


def _wrapped(value):
    if isinstance(value, torch.Tensor):
        return value if isinstance(value, PretendedTensor) else PretendedTensor(value)
    return type(value)(map(_wrapped, value)) if isinstance(value, (list, tuple)) else value


def _refuse_mixture(func, tensors):
    if func in _TAKES_BOTH or "foreach" in str(func):
        return
    for x in tensors:
        # A number is taken from any device.
        if not isinstance(x, PretendedTensor) and x.dim() > 0:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{NAME}:0 and cpu! ({func} of a CPU tensor of shape {tuple(x.shape)})"
            )


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    layout = torch.contiguous_format if memory_format is None else memory_format
    return PretendedTensor(torch.empty(size, dtype=dtype, memory_format=layout))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return PretendedTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source, target, non_blocking=False):
    inner = [x.inner if isinstance(x, PretendedTensor) else x for x in (source, target)]
    inner[1].copy_(inner[0])
    return target
