"""Plots of the results: AP over FLOPs and over latency."""

import statistics

import matplotlib
from matplotlib.figure import Figure

from .methods import METHODS, RECIPES
from .table import levels_of, mean, read

_STYLES = {"": "o-", RECIPES["distilled"].suffix: "s--", RECIPES["alone"].suffix: "^:"}
# Lower end of the AP axis, as a fraction of the dense model's AP.
_LEAST = 0.7
_LABELS = {"slim": "slim from scratch"}


def draw_curves(folder, path):
    """Draw one row per model: mask AP (box AP without masks) over FLOPs and over latency.

    The gray line is the better of the dense model and the dense model trained on. The AP axis
    starts at 70 % of that line or higher; curves below leave the frame.

    Args:
        folder (str): with ``MODEL/SEED/results.json``.
        path (str): the PNG file to write.
    """
    rows = sorted(read(folder).items())
    figure = Figure(figsize=(10, 3.6 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots(len(rows), 2, sharey="row", squeeze=False)
    colors = matplotlib.colormaps["tab10"].colors
    lines = {}
    for (model, runs), (over_flops, over_latency) in zip(rows, axes):
        task = "segm" if "segm" in runs[0]["dense"] else "bbox"
        better = max(mean(runs, step, task) or (0, 0) for step in ("dense", "dense, trained on"))
        for ax, title in ((over_flops, "FLOPs"), (over_latency, "latency")):
            lines["dense"] = ax.axhline(better[0], color="gray", linewidth=1)
            ax.set_xlabel(f"{title} left")
            ax.set_title(model)
            ax.grid(alpha=0.3)
        over_flops.set_ylabel("mask AP" if task == "segm" else "box AP")
        for method, color in zip((*METHODS, "slim"), colors):
            for suffix, style in _STYLES.items():
                points = _points(runs, method, suffix, task)
                if points:
                    levels, latencies, aps = zip(*points)
                    how = {"color": color, "markersize": 4, "linewidth": 1.2}
                    label = _LABELS.get(method, method + suffix)
                    [lines[label]] = over_flops.plot(levels, aps, style, **how)
                    over_latency.plot(latencies, aps, style, **how)
        over_flops.margins(y=0.1)
        over_flops.set_ylim(bottom=max(over_flops.get_ylim()[0], _LEAST * better[0]))
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)


def _points(runs, method, suffix, task):
    """Return (FLOPs left, latency left, AP) of each level with results."""
    points = []
    for level in levels_of(runs):
        step = f"{method} {level}{suffix}"
        found = mean(runs, step, task)
        if found:
            timed = [run["latency"] for run in runs if step in run.get("latency", ())]
            ratios = [each[step] / each["dense"] for each in timed]
            latency = statistics.mean(ratios) if ratios else float("nan")
            points.append((float(level), latency, found[0]))
    return points
