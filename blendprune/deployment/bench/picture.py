"""AP over latency."""

from ...pruning.cost.latency import threads_words


def draw_bench(found, path):
    """Draw one point per model and form: its first task's AP over its milliseconds.

    Args:
        found (dict): from :func:`blendprune.bench`, with AP.
        path (str): the picture to write; its suffix says in which format.
    """
    import matplotlib
    from matplotlib.figure import Figure

    batch = min(row["batch"] for row in found["rows"] if "ms" in row)
    rows = [row for row in found["rows"] if row.get("batch") == batch and row.get("ap")]
    task = next(iter(rows[0]["ap"]))
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    models = list(dict.fromkeys(row["model"] for row in rows))
    forms = list(dict.fromkeys(row["form"] for row in rows))
    colors = dict(zip(models, matplotlib.colormaps["tab10"].colors))
    markers = dict(zip(forms, "os^vDPX*h"))
    for row in rows:
        spread = [[row["ms"] - row["low"]], [row["high"] - row["ms"]]]
        how = {"color": colors[row["model"]], "marker": markers[row["form"]], "capsize": 2}
        axes.errorbar(row["ms"], row["ap"][task], xerr=spread, linestyle="", **how)
    for model in models:
        axes.plot([], [], "s", color=colors[model], label=model)
    for form in forms:
        axes.plot([], [], markers[form], color="gray", label=form)
    axes.set_xlabel(f"milliseconds, {batch} image{'s' * (batch > 1)} a call")
    axes.set_ylabel({"segm": "mask AP", "bbox": "box AP"}.get(task, f"{task} AP"))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.set_title(f"{found['machine']}, {threads_words(found['threads'])}", fontsize=9)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)
