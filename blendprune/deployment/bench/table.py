"""The result of a bench, as a text table."""

from tabulate import tabulate

from ...pruning.cost.latency import threads_words

_NETWORK_WORDS = (
    "network alone: without preparation and decoding; heads that run on regions run on as many as "
    "the config allows, so it may take longer than a whole call"
)


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
    timed = sorted((row for row in found["rows"] if "ms" in row), key=lambda row: row["batch"])
    if not timed:
        return ""
    columns = _columns(found["rows"])
    cells = [[show(row) for show in columns.values()] for row in timed]
    align = ["left", "left"] + ["right"] * (len(columns) - 2)
    return tabulate(cells, list(columns), tablefmt=form, disable_numparse=True, colalign=align)


def _columns(rows):
    """Header → what a row has there; a column that would say the same of all rows is left out."""
    models, forms = _names(rows)
    faster = {}
    if len(models) > 1 or len(forms) > 1:
        faster["speedup"] = "times faster"
    if len(models) > 1 and len(forms) > 1:
        faster["speedup_in_form"] = "in this form"
    columns = {
        "model": lambda row: row["model"],
        "form": lambda row: row["form"],
        "images": lambda row: str(row["batch"]),
        "ms": lambda row: f"{row['ms']:.1f}",
        "quartiles": lambda row: f"{row['low']:.1f} – {row['high']:.1f}",
        "images/s": lambda row: f"{row['images_per_s']:.2f}",
        **{header: _number_at(key) for key, header in faster.items()},
    }
    if any("network_ms" in row for row in rows):
        columns["network alone: ms"] = _number_at("network_ms", 1)
        for key, header in faster.items():
            columns[f"network alone: {header}"] = _number_at(f"network_{key}")
    if len(models) > 1:
        columns["FLOPs"] = _number_at("flops", 3)
    columns["peak MB"] = _number_at("peak_mb", 0)
    for task in dict.fromkeys(task for row in rows for task in row.get("ap") or ()):
        columns[f"{task} AP"] = lambda row, task=task: _number((row.get("ap") or {}).get(task), 1)
    return columns


def _names(rows):
    """Models and forms, in their order."""
    return (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "form"))


def _compared_with(rows):
    """What ratios are of."""
    (first, *models), (form, *forms) = _names(rows)
    words = [f"times faster: than {first}, {form}"] if models or forms else []
    words += [f"in this form: than {first} in the same form"] if models and forms else []
    words += [f"FLOPs: of {first}'s"] if models else []
    return "; ".join(words)


def bench_facts(found):
    """What was measured on what, and what failed.

    Args:
        found (dict): from :func:`blendprune.bench`.

    Returns:
        list[str]: lines.
    """
    height, width = found["image"][-2:]
    threads = threads_words(found["threads"])
    image = f"{found.get('timed_on', 'one image')}, {height} x {width}"
    failed = {(row["model"], row["form"]): row["error"] for row in found["rows"] if "error" in row}
    return [
        f"{found['machine']}; {threads}; {image}; medians of {found['runs']}",
        *filter(None, [_compared_with(found["rows"])]),
        *([_NETWORK_WORDS] if any("network_ms" in row for row in found["rows"]) else []),
        *(f"{model}, {form}: {error}" for (model, form), error in failed.items()),
    ]


def _number_at(key, digits=2):
    return lambda row: _number(row.get(key), digits)


def _number(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"
