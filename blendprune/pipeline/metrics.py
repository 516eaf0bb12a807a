"""The one number of each task in what detectron2's evaluators return."""

import math
from numbers import Number

#: Metrics that stand for a task, the first that it has.
HEADLINES = ("AP", "PQ", "mIoU", "hmean")


def main_metrics(results):
    """Pick the main metric of each task.

    Args:
        results (dict | None): task → metric → value, as ``DefaultTrainer.test`` returns it; with
            several data sets, data set → task → metric → value.

    Returns:
        dict[str, float | None]: task (or ``"data set/task"``) → AP, PQ or mIoU. None: the evaluator
        gave no number. Tasks without such a metric are left out.
    """
    found = {}
    for task, numbers in tasks_of(results):
        key = headline_of(numbers)
        if task and key:
            found[task] = float(numbers[key]) if math.isfinite(numbers[key]) else None
    return found


def tasks_of(results, name=""):
    """Yield each task and its numbers, however deep the results are nested.

    Args:
        results (dict | None): as for :func:`main_metrics`.
        name (str): of the task or data set that the results are of.

    Yields:
        tuple[str, dict[str, Number]]: task (or ``"data set/task"``), metric → value.
    """
    items = [(str(key), value) for key, value in (results or {}).items()]
    numbers = {key: value for key, value in items if isinstance(value, Number)}
    if numbers:
        yield name, numbers
    for key, value in items:
        if isinstance(value, dict):
            yield from tasks_of(value, f"{name}/{key}" if name else key)


def headline_of(numbers):
    """The metric that stands for a task.

    Args:
        numbers (dict[str, Number]): its metrics.

    Returns:
        str | None: a key; None if none of :data:`HEADLINES` is there.
    """
    return next((key for key in HEADLINES if key in numbers), None)
