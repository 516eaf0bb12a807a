"""A model built from a file is of a size that its weights explain."""

import contextlib
import threading

import torch
from torch.nn.modules import module as hooks

from ..checks import shown
from ..errors import StructError

# Pruned to a tenth of its channels everywhere, a model keeps a hundredth of its values.
_GROWTH, _TENSORS = 256, 4
# But no more than a gigabyte, or 16 times what is there.
_VALUES, _GROWTH_OF_LARGE = 1 << 28, 16

# What this thread may still build.
_building = threading.local()
_hooks, _hooking = [], threading.Lock()

# Far above any width. Norms fill their tensors before anyone can see how large they are.
_MAX_NUMBER = 1 << 24


def refuse_large_numbers(node, path):
    """Refuse a config with numbers that are no widths, before a model is built from it.

    Args:
        node (CfgNode): MODEL of a config from a file.
        path (str): of the file, for the message.

    Raises:
        StructError: an int is larger than 2^24.
    """
    todo = [node]
    while todo:
        part = todo.pop()
        if isinstance(part, (dict, list, tuple)):
            todo += part.values() if isinstance(part, dict) else part
        elif isinstance(part, int) and part > _MAX_NUMBER:
            raise StructError(
                f"the config in {path} has the number {shown(part)} in MODEL, which no detector "
                "has: pass the dense model, load(path, model=…)."
            )


@contextlib.contextmanager
def sized_by(weights, path):
    """Let a ``with`` block build only what weights can be pruned from.

    The config in a file says how large the model is that is built, before it takes the widths of
    the file; anyone may have written it. A tensor is refused before a number is in it.

    Args:
        weights (dict[str, Tensor]): a state dict.
        path (str): of its file, for the message.

    Yields:
        None

    Raises:
        StructError: this thread builds more than 256 times the values of the weights (16 times,
            beyond 2^28), or four times as many tensors.
    """
    # By their storages: a tensor may claim any shape.
    storages = {
        id(x): x.untyped_storage().nbytes() // x.element_size()
        for x in weights.values()
        if isinstance(x, torch.Tensor) and x.layout == torch.strided
    }
    values = sum(storages.values()) + 4096
    values = min(_GROWTH * values, max(_VALUES, _GROWTH_OF_LARGE * values))
    _watch_modules()
    _building.left, _building.path = [values, _TENSORS * (len(weights) + 256)], path
    try:
        yield
    finally:
        _building.left = None


def _watch_modules():
    """Let torch tell of each parameter and buffer of a module, from now on.

    Once for the process: torch goes through its hooks without a lock, so they must not come and go
    while other threads build modules.
    """
    with _hooking:
        if not _hooks:
            _hooks.append(hooks.register_module_parameter_registration_hook(_count))
            _hooks.append(hooks.register_module_buffer_registration_hook(_count))


def _count(module, name, tensor):
    left = getattr(_building, "left", None)
    if left is None or tensor is None:
        return
    left[0] -= tensor.numel()
    left[1] -= 1
    if min(left) < 0:
        raise StructError(
            f"the config in {_building.path} builds a model that is far larger than the weights "
            "beside it: pass the dense model, load(path, model=…)."
        )
