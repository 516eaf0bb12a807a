"""Outputs of parts that no longer change, kept in memory."""

import contextlib

import torch
from torch.utils._pytree import tree_flatten, tree_map

# Bytes to keep at most, for any number of images; the rest is computed again.
_BUDGET = 4 << 30
# Share of the free memory to keep at most.
_SHARE = 0.25


class OutputCache:
    """Lets parts of a model answer from memory once all their layers are refit.

    Args:
        model (nn.Module): in eval mode, run on the same batches again and again.
        layers (Iterable[nn.Module]): layers that will change, each until :meth:`final` is called.
    """

    def __init__(self, model, layers):
        self._parts = _parts(model, set(layers))
        self._open = {part: len(inside) for part, inside in self._parts.items()}
        self._kept, self._calls, self._batch, self._size = {}, {}, None, 0
        self._budget = min(_BUDGET, int(_SHARE * _free_memory()))

    @contextlib.contextmanager
    def on(self, batch):
        """Let final parts answer for the batch of this number, until the block ends."""
        self._batch, self._calls = batch, {}
        replaced = []
        try:
            for part in self._largest_final():
                part.forward = self._answering(part)
                replaced.append(part)
            yield
        finally:
            for part in replaced:
                del part.forward

    def final(self, layer):
        """Say that a layer no longer changes; outputs of smaller parts are dropped."""
        for part, inside in self._parts.items():
            if layer in inside:
                self._open[part] -= 1
        largest = set(self._largest_final())
        for key in [key for key in self._kept if key[0] not in largest]:
            self._size -= _bytes(self._kept.pop(key))

    def _largest_final(self):
        covered = set()
        # Parts come before what is in them.
        for part in self._parts:
            if self._open[part] == 0 and part not in covered:
                covered.update(part.modules())
                yield part

    def _answering(self, part):
        compute = part.forward

        def forward(*args, **kwargs):
            call = self._calls[part] = self._calls.get(part, -1) + 1
            key = (part, self._batch, call)
            if key in self._kept:
                return tree_map(_copy, self._kept[key])
            output = compute(*args, **kwargs)
            size = _bytes(output)
            if size is not None and self._size + size <= self._budget:
                self._size += size
                self._kept[key] = tree_map(_copy, output)
            return output

        return forward


def _free_memory():
    """Bytes that this process may still allocate, where Linux says so."""
    try:
        import resource

        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        free = int(lines["MemAvailable"].split()[0]) << 10
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            with open("/proc/self/statm") as file:
                free = min(free, limit - int(file.read().split()[0]) * resource.getpagesize())
    except (ImportError, OSError, KeyError, ValueError):
        return _BUDGET / _SHARE
    return max(free, 0)


def _parts(model, layers):
    """Modules inside the model that contain some of the layers → these; containers first."""
    parts = {}
    for module in model.modules():
        inside = layers.intersection(module.modules())
        if inside and module is not model:
            parts[module] = inside
    return parts


def _bytes(output):
    """Size of the tensors of an output; None if it holds anything else."""
    leaves, _ = tree_flatten(output)
    if not all(leaf is None or isinstance(leaf, torch.Tensor) for leaf in leaves):
        return None
    return sum(leaf.nbytes for leaf in leaves if leaf is not None)


def _copy(leaf):
    # The next layer may write over it.
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf
