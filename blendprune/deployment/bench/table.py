"""The result of a bench, as a text table."""

from tabulate import tabulate

from ...pruning.cost.latency import threads_words

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
    table = bench_rows(found, "pipe")
    return "\n".join([*([table] if table else []), "", *bench_facts(found)])


def bench_rows(found, form):
    """The rows alone.

    Args:
        found (dict): from :func:`blendprune.bench`.
        form (str): a table format of tabulate, such as ``"html"``.

    Returns:
        str: empty if nothing was timed.
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
    if not cells:
        return ""
    return tabulate(cells, headers, tablefmt=form, disable_numparse=True, colalign=align)


def bench_facts(found):
    """What was measured on what, and what failed.

    Args:
        found (dict): from :func:`blendprune.bench`.

    Returns:
        list[str]: lines.
    """
    height, width = found["image"][-2:]
    threads = threads_words(found["threads"])
    failed = {(row["model"], row["form"]): row["error"] for row in found["rows"] if "error" in row}
    return [
        f"{found['machine']}; {threads}; {height} x {width}; medians of {found['runs']}",
        *(f"{model}, {form}: {error}" for (model, form), error in failed.items()),
    ]


def _number(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"
