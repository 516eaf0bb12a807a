"""The one number of each task in what detectron2's evaluators return."""

import math

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
    for name, value in (results or {}).items():
        if not isinstance(value, dict):
            continue
        metric = next((value[key] for key in HEADLINES if key in value), None)
        if metric is not None:
            found[name] = float(metric) if math.isfinite(metric) else None
        else:
            found |= {f"{name}/{task}": x for task, x in main_metrics(value).items()}
    return found
