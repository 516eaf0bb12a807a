"""Tables of the results: means over the available seeds."""

import collections
import json
import pathlib
import re
import statistics

from tabulate import tabulate

from .methods import METHODS, RECIPES

# In the name of a step: the FLOPs of its model.
_LEVEL = re.compile(r" (0\.\d+)(?:,|$)")


def tables(folder):
    """Draw one Markdown table per model and task.

    Args:
        folder (str): with ``MODEL/SEED/results.json``.

    Returns:
        str: rows are methods, columns the FLOPs left. Values are AP, means over the seeds. A cell
        gives the number of seeds if some are missing.
    """
    parts = []
    for model, runs in sorted(read(folder).items()):
        for task in ("segm", "bbox"):
            dense = [run["dense"][task] for run in runs if task in run["dense"]]
            if dense:
                parts.append(f"{model}, {task} AP, {len(runs)} seeds\n\n{_table(runs, task)}")
    return "\n\n".join(parts)


def mean(runs, step, key):
    """Average a value over the runs that have it.

    Returns:
        tuple[float, int] | None: the mean and the number of runs; None if no run has it.
    """
    values = [run[step][key] for run in runs if key in run.get(step, ())]
    return (statistics.mean(values), len(values)) if values else None


def read(folder):
    """Read the results of all runs with a trained dense model.

    Args:
        folder (str): with ``MODEL/SEED/results.json``.

    Returns:
        dict[str, list[dict]]: per model, one entry per seed.
    """
    found = collections.defaultdict(list)
    for path in sorted(pathlib.Path(folder).glob("*/*/results.json")):
        results = json.loads(path.read_text())
        if "dense" in results:
            found[path.parent.parent.name].append(results)
    return found


def levels_of(runs):
    """FLOPs with results, as in the names of the steps, the largest first.

    Returns:
        list[str]: of all runs.
    """
    found = {level for run in runs for step in run for level in _LEVEL.findall(step)}
    return sorted(found, key=float, reverse=True)


def _table(runs, task):
    kept = levels_of(runs) or ["1"]
    rows = [["dense", *(["dense"] * len(kept))]]
    controls = dict.fromkeys(recipe.trained_on for recipe in RECIPES.values())
    rows += [[control, *([control] * len(kept))] for control in controls]
    rows += [[method, *(f"{method} {level}" for level in kept)] for method in METHODS]
    rows += [
        [method + recipe.suffix, *(f"{method} {level}{recipe.suffix}" for level in kept)]
        for recipe in RECIPES.values()
        for method in recipe.methods
    ]
    rows.append(["slim from scratch", *(f"slim {level}" for level in kept)])
    cells = [[name, *(_cell(runs, step, task) for step in steps)] for name, *steps in rows]
    cells = [row for row in cells if any(row[1:])]
    return tabulate(cells, ["FLOPs left", *kept], tablefmt="pipe", disable_numparse=True)


def _cell(runs, step, task):
    found = mean(runs, step, task)
    if found is None:
        return ""
    value, count = found
    return f"{value:.1f}" if count == len(runs) else f"{value:.1f} ({count})"
