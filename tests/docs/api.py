"""``docs/api.md``: the public names, from their docstrings.

A comment behind each table tells the site where the docstrings are; see ``docs/site/hooks.py``.
"""

import importlib
import inspect
import re

import blendprune
from blendprune import training

_INTRODUCTION = """\
# Python API

`python -m tests.docs` writes this page from docstrings. The [site](README.md#development) shows the
whole docstring of each name: arguments, shapes, units, errors. In the repository, they are in the
source. `import blendprune` changes nothing and imports neither PyTorch nor detectron2.
"""
_GROUPS = {
    "The overlay": ("apply", "applied", "revert", "status"),
    "Plan and prune": ("plan", "prune", "prune_in_script", "measure_sensitivity", "prunable"),
    "With a config": (
        *("add_prune_config", "plan_from_config", "prune_from_config"),
        *("sensitivity_from_config", "export_from_config"),
    ),
    "Checkpoints": ("load", "convert", "restructure", "structure_of"),
    "Ship": ("deploy", "export", "runtime.load", "bench"),
    "Models of your own": (
        *("Architecture", "Stage", "register_architecture"),
        *("register_channel_wise", "register_flops"),
    ),
    "Training hooks": tuple(f"training.{name}" for name in training.__all__),
    "Results": tuple(
        f"pruning.{name}"
        for name in (
            *("PruningReport", "PruningPlan", "GroupPlan", "Sensitivity"),
            *("pruning_table", "plan_table", "sensitivity_table"),
        )
    ),
    "Several processes": ("distributed.together",),
    "Errors": ("errors",),
}


def names():
    """The documented names, without ``blendprune.`` (list[str])."""
    return [name for group in _GROUPS.values() for name in group]


def found(name):
    """The object that a name stands for, and its path in the source.

    Args:
        name (str): without ``blendprune.``.

    Returns:
        tuple[object, str]: object, dotted path.
    """
    each = blendprune
    for part in name.split("."):
        home = each.__name__
        each = (
            getattr(each, part)
            if hasattr(each, part)
            else importlib.import_module(f"{home}.{part}")
        )
    if inspect.ismodule(each):
        return each, each.__name__
    return each, f"{each.__module__}.{each.__qualname__}"


def page():
    """The page (str)."""
    lines = [_INTRODUCTION]
    for title, group in _GROUPS.items():
        lines += [f"## {title}", "", "| name | what it is |", "|---|---|"]
        for name in group:
            summary = inspect.getdoc(found(name)[0]).split("\n\n")[0].replace("\n", " ")
            summary = re.sub(r":\w+:`[~.]*([^`]+)`", r"`\1`", summary).replace("``", "`")
            lines.append(f"| `blendprune.{name}` | {summary.replace('|', chr(92) + '|')} |")
        lines += ["", *(f"<!-- api: blendprune.{name} {found(name)[1]} -->" for name in group), ""]
    return "\n".join(lines).rstrip() + "\n"
