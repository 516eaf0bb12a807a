"""The report of a pruning run, as a text table."""

from tabulate import tabulate

from ..pruning.cost.memory import MEMORY_WORDS
from ..pruning.search.rounding import rounding_words
from .latency import clock_words, latency_words
from .reference import reference_words, was_pruned

#: Task of an evaluator → how people call its main metric.
METRICS = {
    "segm": "mask AP",
    "bbox": "box AP",
    "keypoints": "keypoint AP",
    "panoptic_seg": "PQ",
    "sem_seg": "mIoU",
}


def report_table(report):
    """Draw the report of ``blendprune prune`` or of the demo.

    Caveats: one multiply-add is one FLOP, as in fvcore. Latency is the median on the machine,
    threads and inputs of that run. The demo measures it on the fine-tuned model. That model has
    trained longer than the dense one, so a gain in AP does not come from pruning. ::

                         dense    pruned    fine-tuned    change
        -------------  -------  --------  ------------  --------
        FLOPs (M)       1003.2     451.0         451.0     0.450
        params (M)       13.74      3.88          3.88     0.282
        latency (ms)     38.41                   24.10     0.627
        mask AP           80.1      55.3          79.4      -0.7
        box AP            85.0      60.2          84.6      -0.4

        widths: multiples of 16 (auto: AVX-512, float32)
        2 threads on cpu; 9.5 min in all; reloaded in a new process: identical

    Args:
        report (dict): with ``flops``, ``params``, ``latency_ms``, each with ``before`` and
            ``after``; optionally ``latency_ms_by_form``, ``wall_s``, ``ap``, ``threads``,
            ``device``, ``reloaded_identical``, ``notes``, ``round_to``, ``memory_mb``,
            ``relative_to``: with a
            model that was pruned before, the first column is "before" instead of "dense".

    Returns:
        str: several lines, without a trailing line break.
    """
    tuned = "finetuned" in report.get("ap", {})
    rows = [
        _size_row("FLOPs", report["flops"], tuned),
        _size_row("params", report["params"], tuned),
    ]
    if report.get("memory_mb"):
        rows.append(_memory_row(report["memory_mb"], tuned))
    if report.get("latency_ms"):
        rows.append(_latency_row("latency (ms)", report["latency_ms"], tuned))
    for form, values in report.get("latency_ms_by_form", {}).items():
        if values != report.get("latency_ms"):
            rows.append(_latency_row(f"latency, {form} (ms)", values, tuned))
    stages = report.get("ap", {})
    found = dict.fromkeys(key for scores in stages.values() for key in scores)
    for key in sorted(found, key=[*METRICS, *found].index):
        values = {stage: scores.get(key) for stage, scores in stages.items()}
        rows.append(_ap_row(METRICS.get(key, key), values, tuned))
    reference = report.get("relative_to")
    again = reference is not None and was_pruned(reference)
    first = "before" if again else "dense"
    headers = ["", first, "pruned", *(["fine-tuned"] if tuned else []), "change"]
    align = ["left"] + ["right"] * (len(headers) - 1)
    table = tabulate(rows, headers, disable_numparse=True, colalign=align)
    rounding = report.get("round_to")
    lines = [
        f"before: {reference_words(reference)}" if again else "",
        f"widths: {rounding_words(rounding)}" if rounding else "",
        MEMORY_WORDS if report.get("memory_mb") else "",
        _facts(report),
        latency_words(report),
    ]
    facts = "\n".join(filter(None, lines))
    notes = [f"- {note}" for note in report.get("notes", [])]
    return "\n".join([table, *(["", facts] if facts else []), *(["", *notes] if notes else [])])


def _size_row(name, values, tuned):
    before, after = values["before"], values["after"]
    unit, factor = ("G", 1e9) if before >= 1e10 else ("M", 1e6) if before >= 1e6 else ("k", 1e3)
    shown = [f"{value / factor:.2f}" for value in (before, after)]
    return [f"{name} ({unit})", *shown, *shown[1:][:tuned], f"{after / before:.3f}"]


def _memory_row(values, tuned):
    before, after = values["before"], values["after"]
    shown = [f"{value:.2f}" for value in (before, after)]
    return ["memory (MB)", *shown, *shown[1:][:tuned], f"{after / before:.3f}"]


def _latency_row(name, values, tuned):
    before, after = values["before"], values["after"]
    change = f"{after / before:.3f}"
    shown = ["", f"{after:.2f}"] if tuned else [f"{after:.2f}"]
    return [name, f"{before:.2f}", *shown, change]


def _ap_row(name, values, tuned):
    stages = ["dense", "pruned", *(["finetuned"] if tuned else [])]
    values = [values.get(stage) for stage in stages]
    shown = ["" if value is None else f"{value:.1f}" for value in values]
    known = None not in (values[0], values[-1])
    return [name, *shown, _change(values[0], values[-1]) if known else ""]


def _change(before, after):
    """The difference of the numbers that are shown."""
    return f"{round(after, 1) - round(before, 1):+.1f}"


def _facts(report):
    facts = []
    if "threads" in report:
        facts.append(clock_words(report))
    if "wall_s" in report:
        seconds = report["wall_s"]
        facts.append(f"{seconds / 60:.1f} min in all" if seconds >= 60 else f"{seconds:.0f} s")
    if "reloaded_identical" in report:
        same = "identical" if report["reloaded_identical"] else "DIFFERENT"
        facts.append(f"reloaded in a new process: {same}")
    return "; ".join(facts)
