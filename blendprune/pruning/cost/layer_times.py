"""Milliseconds of single layers at many widths, measured once on a machine and kept."""

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import logging
import math
import os
import platform
from bisect import bisect_right

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import get_cache_dir

from ...files import staged
from ..tracing.hooks import forward_hooks
from .latency import device_name, least_time
from .layer_call import LayerCall

_log = logging.getLogger(__name__)

# Fractions of the dense width; in between, times are taken to be linear.
_FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
# As few inputs as this are those of an image, which stay.
_ALWAYS_THERE = 4
_FORMAT = 1


class LayerTimes:
    """Milliseconds of each layer of a model, as a function of its widths.

    A layer is timed alone, on random numbers of the shapes that it gets in the model's own
    inference, in the form that the model will have. Layers of equal kind and shapes share their
    times. Between measured widths times are interpolated; a wider layer never takes less.

    Args:
        tables (dict[str, list[_Table]]): name of a layer → one for each of its calls.
        measured (int): how many times were measured now; the rest was kept from before.
        path (str): the file that keeps them.
    """

    def __init__(self, tables, measured, path):
        self._tables, self.measured, self.path = tables, measured, path

    def __contains__(self, name):
        return name in self._tables

    def at(self, name, width_in, width_out):
        """Milliseconds of a layer in one inference.

        Args:
            name (str): of the layer in the model.
            width_in (float), width_out (float): channels; of a norm and of a depthwise conv, only
                the latter counts.

        Returns:
            float: of all its calls.
        """
        return sum(table(width_in, width_out) for table in self._tables[name])


def measure_layers(model, run, form, options, step):
    """Time the layers of a model, or read their times.

    Args:
        model (nn.Module): dense or pruned, in eval mode.
        run (Callable): runs the model's inference once, without arguments.
        form (Form): see :func:`blendprune.pruning.cost.forms.runtime_form`.
        options (FormOptions): for the form.
        step (int): widths are multiples of it where the layer is wide enough.

    Returns:
        LayerTimes: of all convs, linears and norms that the inference calls.
    """
    calls = _calls(model, run)
    device = next(p.device for p in model.parameters())
    context = _context(form, options, device)
    path = os.path.join(get_cache_dir(), "blendprune", f"layer_times_{_digest(context)}.json")
    known = _read(path, context)
    before = len(known)
    kinds = list(dict.fromkeys(itertools.chain.from_iterable(calls.values())))
    _log.info("timing %d kinds of layers as %s, unless %s has them", len(kinds), form.name, path)
    tables = {call: _table(call, form, options, device, step, known) for call in kinds}
    if len(known) > before:
        _write(path, context, known)
    found = {name: [tables[call] for call in each] for name, each in calls.items()}
    return LayerTimes(found, len(known) - before, path)


class _Table:
    """Milliseconds over two widths, from a grid."""

    def __init__(self, widths_in, widths_out, times):
        # No channel takes no time.
        self._axes = [0, *widths_in], [0, *widths_out]
        times = np.pad(np.asarray(times, dtype=float), ((1, 0), (1, 0)))
        times = np.maximum.accumulate(np.maximum.accumulate(times, 0), 1)
        self._times = times.tolist()

    def __call__(self, width_in, width_out):
        if len(self._axes[0]) == 2:  # only the outputs vary
            width_in = self._axes[0][1]
        (i, a), (j, b) = (_place(axis, x) for axis, x in zip(self._axes, (width_in, width_out)))
        low, high = self._times[i], self._times[i + 1]
        left = low[j] + b * (low[j + 1] - low[j])
        right = high[j] + b * (high[j + 1] - high[j])
        return left + a * (right - left)


def _place(axis, x):
    """The interval of an axis that a width lies in, and how far it is in it; both ends go on."""
    index = min(max(bisect_right(axis, x) - 1, 0), len(axis) - 2)
    return index, (x - axis[index]) / (axis[index + 1] - axis[index])


def _calls(model, run):
    names = {m: name for name, m in model.named_modules() if LayerCall.is_known(m)}
    calls = {}

    def note(module, inputs):
        call = LayerCall.of(module, inputs)
        if call is not None:
            calls.setdefault(names[module], []).append(call)

    with forward_hooks(names, note, before=True):
        run()
    return calls


def _table(call, form, options, device, step, known):
    widths_out = _widths(call.width_out, step, call.unit)
    widths_in = [1]
    if call.has_two_widths:
        widths_in = _widths(call.width_in, step, call.unit)
    times = [
        [_timed(call, (a, b), form, options, device, known) for b in widths_out] for a in widths_in
    ]
    return _Table(widths_in, widths_out, times)


def _widths(dense, step, unit):
    """Widths to measure: those that the search may choose, up to the dense one."""
    if dense <= _ALWAYS_THERE:
        return [dense]
    fitting = math.lcm(step, unit)
    fitting = fitting if dense >= 8 * fitting else unit
    return sorted({max(unit, round(dense * x / fitting) * fitting) for x in _FRACTIONS} | {dense})


def _timed(call, widths, form, options, device, known):
    key = f"{call.key} {widths[0]} {widths[1]}"
    if key not in known:
        layer, x = call.build(*widths, device)
        run = form.layer(layer, x, options)
        known[key] = 0.0 if run is None else least_time(run)
    return known[key]


def _context(form, options, device):
    """What times depend on besides the layer."""
    return {
        "format": _FORMAT,
        "host": platform.node(),
        "device": f"{device.type}, {device_name(device)}",
        "form": form.name,
        "threads": options.threads,
        "torch": torch.__version__,
        "engine": _version(form.name),
    }


def _version(package):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)


def _digest(context):
    return hashlib.sha256(json.dumps(context).encode()).hexdigest()[:16]


def _read(path, context):
    try:
        with PathManager.open(path) as file:
            found = json.load(file)
        times = found["ms"] if found["context"] == context else {}
        return {str(key): float(ms) for key, ms in times.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # none, or a broken one: it is measured again


def _write(path, context, times):
    PathManager.mkdirs(os.path.dirname(path))
    with staged(path) as [partial], open(partial, "w") as file:
        json.dump({"context": context, "ms": times}, file)
