"""Running a model whose layers become final one after the other, without computing twice.

Parts whose layers are final answer from memory. Layers that are not final need not be computed:
they give NaN. NaN spreads to all that depends on them, so that what is finite is final.
"""

import contextlib

import torch
from torch.utils._pytree import tree_flatten, tree_map

from .linear_maps import linear_map

# Bytes to keep at most, for any number of images; the rest is computed again.
_BUDGET = 4 << 30
# Share of the free memory to keep at most.
_SHARE = 0.25


class OutputCache:
    """Lets parts of a model answer from memory once all their layers are refit.

    Args:
        model (nn.Module): in eval mode, run on the same batches again and again.
        layers (Iterable[nn.Module]): layers that will change, each until :meth:`final` is called;
            each has a :func:`linear_map`.
        budget (float): bytes to keep at most; None: 4 GB, and a quarter of the free memory.

    Attributes:
        size (int): bytes that are kept.
    """

    def __init__(self, model, layers, budget=None):
        self._layers = dict.fromkeys(layers)
        self._parts = _parts(model, set(self._layers))
        self._open = {part: len(inside) for part, inside in self._parts.items()}
        self._inside = {
            part: self._parts.keys() & {*part.modules()} - {part} for part in self._parts
        }
        self._kept, self._calls, self._batch, self.size = {}, {}, None, 0
        self._budget = min(_BUDGET, int(_SHARE * _free_memory())) if budget is None else budget

    @contextlib.contextmanager
    def on(self, batch, blank=True):
        """Let final parts answer for the batch of this number, until the block ends.

        Args:
            batch (int): number of the batch.
            blank (bool): let layers that are not final give NaN. Only then is more kept: what is
                finite does not depend on them.
        """
        self._batch, self._calls = batch, dict.fromkeys(self._parts, 0)
        replaced = []
        try:
            for part in self._parts:
                if self._open[part] == 0:
                    part.forward = self._answering(part, blank)
                    replaced.append(part)
            for layer in self._layers if blank else ():
                layer.forward = _blank_forward(layer)
                replaced.append(layer)
            yield
        finally:
            for part in replaced:
                del part.forward

    def final(self, layer):
        """Say that a layer no longer changes."""
        self._layers.pop(layer)
        for part, inside in self._parts.items():
            if layer in inside:
                self._open[part] -= 1

    def _answering(self, part, keep):
        compute = part.forward

        def forward(*args, **kwargs):
            before = dict(self._calls)
            key = (part, self._batch, before[part])
            if key in self._kept:
                output, self._calls = self._kept[key].recall(before)
                return output
            output = compute(*args, **kwargs)
            self._calls[part] += 1
            if keep:
                self._keep(key, _Kept(output, before, self._calls))
            return output

        return forward

    def _keep(self, key, kept):
        part, batch, _ = key
        if kept.size is None or not _is_finite(kept.output):
            return
        inner = [
            (each, batch, call)
            for each in self._inside[part]
            for call in kept.calls_of(each)
            if (each, batch, call) in self._kept
        ]
        freed = sum(self._kept[each].size for each in inner)
        if self.size + kept.size - freed <= self._budget:
            for each in inner:
                del self._kept[each]
            self._kept[key] = kept
            self.size += kept.size - freed


class _Kept:
    """An output of a part, and which calls of all parts it stands for.

    Args:
        output: of tensors.
        before (dict): part → number of its calls before the call.
        after (dict): and after it.
    """

    def __init__(self, output, before, after):
        self.size = _bytes(output)
        self.output = None if self.size is None else tree_map(_copy, output)
        self._before = before
        self._more = {part: count - before[part] for part, count in after.items()}

    def calls_of(self, part):
        """Numbers of the calls of a part that took place inside."""
        return range(self._before[part], self._before[part] + self._more[part])

    def recall(self, calls):
        """A copy of the output, and the numbers of calls afterwards."""
        return tree_map(_copy, self.output), {
            part: count + self._more[part] for part, count in calls.items()
        }


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


def _is_finite(output):
    leaves, _ = tree_flatten(output)
    return all(leaf is None or bool(leaf.isfinite().all()) for leaf in leaves)


def _blank_forward(layer):
    rows = linear_map(layer)
    return lambda *args: rows.blank(args)


def _copy(leaf):
    # The next layer may write over it.
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf
