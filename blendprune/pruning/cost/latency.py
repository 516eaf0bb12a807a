"""Latency of whole forwards, models measured in turns."""

import contextlib
import functools
import math
import platform
import statistics
import time

import torch

from ...progress import Counted
from ..tracing.hooks import evaluating


def compare_latency(models, inputs, runs=15, warmup=2):
    """Time the inference of several models on the same inputs.

    The models take turns, and the order is reversed every time: a slow moment of the machine
    affects all of them. The time includes everything that a user waits for: preparing the image,
    the network, NMS, pasting the masks. It therefore shrinks less than the FLOPs.

    Args:
        models (dict[str, nn.Module]): by name; each runs in eval mode and keeps its own mode.
        inputs (list[dict]): detectron2's format, ``"image"`` of (C, H, W).
        runs (int): timed forwards of each model.
        warmup (int): forwards before those, not timed.

    Returns:
        dict[str, float]: median milliseconds of each model.

    Raises:
        ValueError: ``runs`` is below 1.
    """
    with contextlib.ExitStack() as modes:
        for model in models.values():
            modes.enter_context(evaluating(model))
        calls = {name: functools.partial(model, inputs) for name, model in models.items()}
        times = time_in_turns(calls, runs, warmup)
    return {name: round(statistics.median(each), 3) for name, each in times.items()}


def time_in_turns(calls, runs, warmup=2):
    """Time functions in turns; the order is reversed every time.

    Args:
        calls (dict[str, Callable]): by name; each is called without arguments.
        runs (int): timed calls of each.
        warmup (int): calls before those, not timed.

    Returns:
        dict[str, list[float]]: milliseconds of each call.

    Raises:
        ValueError: ``runs`` is below 1.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}; at least 1 forward must be timed.")
    times = {name: [] for name in calls}
    order = list(calls)
    for run in Counted(range(-warmup, runs), "turn"):
        for name in order:
            elapsed = _time(calls[name])
            if run >= 0:
                times[name].append(1e3 * elapsed)
        order.reverse()
    return times


def paired_ratio(times, reference):
    """How many times as long one function takes as another one that it took turns with.

    A machine that changes its speed does so for both of a pair. Medians of each alone may fall on
    different speeds.

    Args:
        times (list[float]), reference (list[float]): of :func:`time_in_turns`.

    Returns:
        float: median over the pairs.
    """
    return statistics.median(a / b for a, b in zip(times, reference, strict=True))


def ratio_error(times, reference):
    """The standard error of :func:`paired_ratio`, relative to it, from the quartiles of the pairs.

    Args:
        times (list[float]), reference (list[float]): of :func:`time_in_turns`.

    Returns:
        float: infinite for less than two pairs.
    """
    if len(times) < 2:
        return math.inf
    low, middle, high = statistics.quantiles((a / b for a, b in zip(times, reference)), n=4)
    # Of normal values: the quartiles lie 1.35 sigma apart, the median errs by 1.25 sigma / sqrt(n).
    return 1.25 * (high - low) / 1.35 / middle / math.sqrt(len(times))


def least_time(call, runs=12, enough=0.02):
    """The shortest time of a small piece of work: the one that other work has disturbed least.

    Args:
        call (Callable): called without arguments, once before the timing.
        runs (int): timed calls, at most.
        enough (float): seconds after which three calls suffice.

    Returns:
        float: milliseconds.
    """
    call()
    times = []
    while len(times) < 3 or len(times) < runs and sum(times) < enough:
        times.append(_time(call))
    return 1e3 * min(times)


def quartiles(times):
    """Summarize repeated times.

    Args:
        times (list[float]): at least one.

    Returns:
        dict[str, float]: ``"ms"`` is the median, ``"low"`` and ``"high"`` the quartiles.
    """
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return {"ms": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}


def device_name(device):
    """Name a device.

    Args:
        device (torch.device | None): None for the CPU.

    Returns:
        str: of the graphics card, or the processor with its vector instructions.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def threads_words(count):
    """A number of threads in words.

    Args:
        count (int): at least 1.

    Returns:
        str: such as ``"2 threads"``.
    """
    return f"{count} thread{'s' * (count != 1)}"


def wait_for_device():
    """Wait until CUDA, where there is one, has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _time(call):
    wait_for_device()
    start = time.perf_counter()
    call()
    wait_for_device()
    return time.perf_counter() - start
