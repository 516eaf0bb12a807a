"""Latencies of a report, and how they follow the FLOPs."""

from ..pruning.cost.latency import threads_words

# A latency that saves less than this fraction of what the FLOPs save is worth a sentence.
_FOLLOWS = 0.5


def latencies_of(report):
    """What was timed.

    Args:
        report (dict): as ``report.json`` holds it.

    Returns:
        dict[str, dict]: form → milliseconds ``"before"`` and ``"after"``.
    """
    found = report.get("latency_ms_by_form") or {"eager": report.get("latency_ms")}
    return {form: values for form, values in found.items() if values}


def fastest_form(report):
    """The form that one would ship.

    Args:
        report (dict): as ``report.json`` holds it.

    Returns:
        tuple[str, float] | None: the form in which the pruned model takes the least time, and its
        latency as a fraction of the dense model's in the same form; None if nothing was timed.
    """
    found = latencies_of(report)
    if not found:
        return None
    form = min(found, key=lambda form: found[form]["after"])
    return form, found[form]["after"] / found[form]["before"]


def clock_words(report):
    """What latencies hold for.

    Args:
        report (dict): as ``report.json`` holds it, with ``threads``.

    Returns:
        str: threads, device, and the image if the report names it.
    """
    words = f"{threads_words(report['threads'])} on {report.get('device', 'cpu')}"
    return f"{words}, {report['timed_on']}" if report.get("timed_on") else words


def latency_words(report):
    """Say where to look if the latency fell much less than the FLOPs.

    Args:
        report (dict): as ``report.json`` holds it.

    Returns:
        str: a sentence; empty if the fastest form saves half of what the FLOPs save.
    """
    fastest = fastest_form(report)
    flops = report["flops"]["after"] / report["flops"]["before"]
    if fastest is None or 1 - fastest[1] >= _FOLLOWS * (1 - flops):
        return ""
    form, kept = fastest
    return (
        f"{flops:.2f} of the FLOPs are left, but {kept:.2f} of the latency ({form}): "
        'docs/troubleshooting.md, "half of the FLOPs, but the same latency", has causes; '
        "--max-latency prunes to a latency"
    )
