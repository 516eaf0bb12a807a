"""Latencies of a report, and how they follow the FLOPs."""

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


def latency_words(report):
    """Say where to look if the latency fell much less than the FLOPs.

    Args:
        report (dict): as ``report.json`` holds it.

    Returns:
        str: a sentence; empty if the form that gained most saves half of what the FLOPs save.
    """
    kept = {form: each["after"] / each["before"] for form, each in latencies_of(report).items()}
    flops = report["flops"]["after"] / report["flops"]["before"]
    if not kept or 1 - min(kept.values()) >= _FOLLOWS * (1 - flops):
        return ""
    form = min(kept, key=kept.get)
    return (
        f"{flops:.2f} of the FLOPs are left, but {kept[form]:.2f} of the latency ({form}): "
        'docs/troubleshooting.md, "half of the FLOPs, but the same latency", has causes; '
        "--max-latency prunes to a latency"
    )
