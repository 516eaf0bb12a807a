"""The peak of what is alive in a real forward, measured by storages as they come and go."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Bytes of all storages that were made inside the block and are alive, and their peak.

    Attributes:
        now (int), peak (int): in bytes.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {x.data_ptr() for x in tensors_in((args, kwargs or {}))}
        result = func(*args, **(kwargs or {}))
        for x in tensors_in(result):
            storage = x.untyped_storage()
            if storage not in self._seen and not func.is_view and storage.data_ptr() not in given:
                self._seen.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, size):
        self.now -= size


def tensors_in(tree):
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]
