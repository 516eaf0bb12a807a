"""Where the output of a layer is added to another tensor: residual connections, top-down paths."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

_ADDITIONS = ("add", "add_", "__add__", "__iadd__", "__radd__")


class Sums(TorchFunctionMode):
    """Reports each sum of two tensors of which a layer made one.

    If two layers made them, the sum counts for the layer that ran last: it can correct the other.

    Args:
        report (Callable): called as ``report(name, total, other)`` with the name that
            :meth:`made` was called with, the sum, and what was added to the layer's output.
    """

    def __init__(self, report):
        super().__init__()
        self._report, self._makers, self._clock = report, WeakIdKeyDictionary(), 0

    def made(self, tensor, name):
        """Note who made a tensor, until something is written over it."""
        self._clock += 1
        self._makers[tensor] = (self._clock, tensor._version, name)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = None
        if getattr(function, "__name__", "") in _ADDITIONS and not kwargs:
            found = self._last_maker(args)
        if found is None:
            return function(*args, **kwargs)
        which, name = found
        other = args[1 - which]
        if function.__name__ in ("add_", "__iadd__") and which == 1:
            other = other.clone()
        total = function(*args)
        self._report(name, total, other)
        return total

    def _last_maker(self, args):
        if not all(isinstance(x, torch.Tensor) for x in args) or args[0].shape != args[1].shape:
            return None
        makers = []
        for which, tensor in enumerate(args):
            clock, version, name = self._makers.get(tensor, (0, 0, None))
            if clock and version == tensor._version:
                makers.append((clock, which, name))
        return max(makers)[1:] if makers else None
