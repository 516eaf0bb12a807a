"""Latency of whole forwards, models measured in turns."""

import contextlib
import statistics
import time

import torch

from ..tracing.hooks import evaluating


def compare_latency(models, inputs, runs=15, warmup=2, forward=None):
    """Time the inference of several models on the same inputs.

    The models take turns, and the order is reversed every time: a slow moment of the machine
    affects all of them. The time includes everything that a user waits for: preparing the image,
    the network, NMS, pasting the masks. It therefore shrinks less than the FLOPs. ``forward``
    measures less.

    Args:
        models (dict[str, nn.Module]): by name; each runs in eval mode and keeps its own mode.
        inputs (list[dict]): detectron2's format, ``"image"`` of (C, H, W).
        runs (int): timed forwards of each model.
        warmup (int): forwards before those, not timed.
        forward (Callable): called with a model and the inputs; by default the model itself.

    Returns:
        dict[str, float]: median milliseconds of each model.

    Raises:
        ValueError: ``runs`` is below 1.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}; at least 1 forward must be timed.")
    seconds = {name: [] for name in models}
    order = list(models)
    with contextlib.ExitStack() as modes:
        for model in models.values():
            modes.enter_context(evaluating(model))
        for run in range(-warmup, runs):
            for name in order:
                elapsed = _time_forward(forward or _call, models[name], inputs)
                if run >= 0:
                    seconds[name].append(elapsed)
            order.reverse()
    return {name: round(1e3 * statistics.median(each), 3) for name, each in seconds.items()}


def _call(model, inputs):
    return model(inputs)


def _time_forward(forward, model, inputs):
    _wait_for_device()
    start = time.perf_counter()
    forward(model, inputs)
    _wait_for_device()
    return time.perf_counter() - start


def _wait_for_device():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
