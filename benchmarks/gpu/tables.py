"""Results as markdown tables."""

from tabulate import tabulate


def tables(results):
    """All results of a run.

    Args:
        results (dict): as ``python -m benchmarks.gpu`` writes them.

    Returns:
        str: the machine, a table of times, a table of each other step, what is missing.
    """
    parts = [", ".join(f"{key} {value}" for key, value in results["machine"].items())]
    timings, rest = [], []
    for name, step in results["steps"].items():
        found = step["found"]
        if "error" in found:
            rest.append(f"{name} failed: {found['error']}")
        elif "dense" in found:
            timings += _rows(name, found)
        else:
            rest.append(f"{name}: {found}")
    if timings:
        parts.append(tabulate(timings, headers="keys", tablefmt="pipe"))
    if results["left out"]:
        rest.append(f"left out: {'; '.join(results['left out'])}")
    return "\n\n".join(parts + rest)


def _rows(name, found):
    model, form, precision, batch, _ = name.split(", ")
    dense = found["dense"]
    for label, each in found.items():
        row = {"model": model, "form": form, "precision": precision}
        row.update({"batch": batch.removeprefix("batch "), "widths": label})
        if "error" in each:
            yield {**row, "whole (ms)": each["error"]}
            continue
        row["FLOPs"] = f"{each['flops']:.2f}"
        for kind in ("whole", "core"):
            time = each[kind]
            row[f"{kind} (ms)"] = f"{time['ms']:.1f} ({time['low']:.1f}–{time['high']:.1f})"
            row[f"{kind}, gain"] = f"{dense[kind]['ms'] / time['ms']:.2f}"
        yield row
