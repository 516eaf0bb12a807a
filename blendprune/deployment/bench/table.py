"""The result of a bench, as a text table."""

from tabulate import tabulate

_NETWORK = {
    "network_ms": "network, ms",
    "network_speedup": "times faster",
    "network_speedup_in_form": "in this form",
}


def bench_table(found):
    """Draw the rows of :func:`blendprune.bench`, and what they were measured on.

    Args:
        found (dict): from :func:`blendprune.bench`.

    Returns:
        str: several lines, without a trailing line break.
    """
    rows = found["rows"]
    tasks = list(dict.fromkeys(task for row in rows for task in row.get("ap") or ()))
    timed = [row for row in rows if "ms" in row]
    headers = ["model", "form", "images", "ms", "quartiles", "images/s", "times faster"]
    network = [name for name in _NETWORK if any(name in row for row in timed)]
    headers += ["in this form", *(_NETWORK[name] for name in network), "FLOPs", "peak MB"]
    headers += [f"{task} AP" for task in tasks]
    cells = [
        [
            row["model"],
            row["form"],
            str(row["batch"]),
            f"{row['ms']:.1f}",
            f"{row['low']:.1f} – {row['high']:.1f}",
            f"{row['images_per_s']:.2f}",
            _number(row["speedup"]),
            _number(row["speedup_in_form"]),
            *(_number(row.get(name), 1 if name.endswith("ms") else 2) for name in network),
            f"{row['flops']:.3f}",
            "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}",
            *(_number((row.get("ap") or {}).get(task), 1) for task in tasks),
        ]
        for row in sorted(timed, key=lambda row: row["batch"])
    ]
    align = ["left", "left"] + ["right"] * (len(headers) - 2)
    lines = [tabulate(cells, headers, tablefmt="pipe", disable_numparse=True, colalign=align)]
    if not cells:
        lines = []
    height, width = found["image"][-2:]
    threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    lines += ["", f"{found['machine']}; {threads}; {height} x {width}; medians of {found['runs']}"]
    failed = {(row["model"], row["form"]): row["error"] for row in rows if "error" in row}
    lines += [f"{model}, {form}: {error}" for (model, form), error in failed.items()]
    return "\n".join(lines)


def _number(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"
