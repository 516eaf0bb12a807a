"""Results as a picture: AP over FLOPs, and over latency."""

import matplotlib
from matplotlib.figure import Figure

from .runs import FINETUNED, LEVELS, METHODS
from .table import mean, read

_STYLES = {"": "o-", FINETUNED: "s--"}


def draw_curves(folder, path):
    """Draw a row for each model: mask AP (box AP without masks) over FLOPs, and over latency.

    Args:
        folder (str): with ``MODEL/SEED/results.json``.
        path (str): the PNG file to write.
    """
    rows = sorted(read(folder).items())
    figure = Figure(figsize=(10, 3.6 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 2, sharey="row", squeeze=False)
    colors = matplotlib.colormaps["tab10"].colors
    for (model, runs), (over_flops, over_latency) in zip(rows, axes):
        task = "segm" if "segm" in runs[0]["dense"] else "bbox"
        better = max(mean(runs, step, task) or (0, 0) for step in ("dense", "dense, trained on"))
        for ax, title in ((over_flops, "FLOPs"), (over_latency, "latency")):
            ax.axhline(better[0], color="gray", linewidth=1)
            ax.set_xlabel(f"{title} left")
            ax.set_title(model)
            ax.grid(alpha=0.3)
        over_flops.set_ylabel("mask AP" if task == "segm" else "box AP")
        for method, color in zip(METHODS, colors):
            for suffix, style in _STYLES.items():
                points = [_point(runs, f"{method} {level:g}", suffix, task) for level in LEVELS]
                points = [point for point in points if point]
                flops, latencies, aps = zip(*points) if points else ((), (), ())
                how = {"color": color, "markersize": 4, "linewidth": 1.2}
                over_flops.plot(flops, aps, style, label=method + suffix if points else None, **how)
                over_latency.plot(latencies, aps, style, **how)
        slim = [(level, mean(runs, f"slim {level:g}", task)) for level in LEVELS]
        slim = [(level, found[0]) for level, found in slim if found]
        if slim:
            over_flops.plot(*zip(*slim), "kx", label="slim from scratch")
        over_flops.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def _point(runs, step, suffix, task):
    """(FLOPs left, latency left, AP), or None for what has not been run."""
    found, flops = mean(runs, step + suffix, task), mean(runs, step, "flops")
    if found is None:
        return None
    timed = [run["latency"] for run in runs if step in run.get("latency", ())]
    ratios = [each[step] / each["dense"] for each in timed]
    latency = sum(ratios) / len(ratios) if ratios else float("nan")
    return flops[0], latency, found[0]
