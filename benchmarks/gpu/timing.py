"""Times of several functions, in turns."""

import statistics
import time

import torch


def time_in_turns(calls, runs, device, warmup=3):
    """Time functions in turns; the order is reversed every time.

    Args:
        calls (dict[str, Callable]): by name.
        runs (int): timed calls of each.
        device (str): whose work is waited for.
        warmup (int): calls before those, not timed.

    Returns:
        dict[str, dict[str, float]]: milliseconds: ``"ms"`` is the median, ``"low"`` and ``"high"``
        the quartiles.
    """
    times = {name: [] for name in calls}
    order = list(calls)
    with torch.no_grad():
        for run in range(-warmup, runs):
            for name in order:
                elapsed = _time(calls[name], device)
                if run >= 0:
                    times[name].append(1e3 * elapsed)
            order.reverse()
    return {name: _summary(each) for name, each in times.items()}


def _time(call, device):
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device):
    """Wait until a device has done all its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def _summary(times):
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return {"ms": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}
