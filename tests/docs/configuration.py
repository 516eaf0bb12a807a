"""``docs/configuration.md``: every config key, from the comments in ``config/keys.py``."""

import ast
from dataclasses import dataclass
from pathlib import Path

import blendprune

from .commands import flags_by_key

_SOURCE = Path(blendprune.__file__).parent / "config" / "keys.py"
_SEE = {
    "MODEL.PRUNE": "script.md",
    "MODEL.FINETUNE": "checkpoints.md#load",
    "PRUNER.MAX_MEMORY": "planning.md#memory",
    "PRUNER.MAX_LATENCY": "planning.md#choose-a-latency",
    "PRUNER.RUNTIME": "planning.md#choose-a-latency",
    "PRUNER.IMPORTANCE": "scores.md",
    "PRUNER.NORMALIZE": "scores.md#normalise-by-cost",
    "PRUNER.RECONSTRUCT": "reconstruction.md",
    "PRUNER.SENSITIVITY": "sensitivity.md",
    "PRUNER.ROUNDS": "how-it-works.md#pruning",
    "PRUNER.LEVELS": "levels.md",
    "PRUNER.ROUND_TO": "planning.md#choose-a-rounding",
    "PRUNER.IGNORED_LAYERS": "planning.md#choose-layers",
    "PRUNER.PRUNING_RATIO_DICT": "planning.md#choose-layers",
    "PRUNER.CALIBRATION_IMAGES": "scores.md",
    "PRUNER.FINETUNE_SCHEDULE": "fine-tuning.md#the-recipe",
    "PRUNER.FINETUNE_DISTILL": "fine-tuning.md#distillation",
    "PRUNER.FIXED_STATISTICS": "fine-tuning.md#batch-norms-keep-their-statistics",
    "PRUNER.KEEP_BEST": "fine-tuning.md#the-best-model-is-kept",
    "PRUNER.DENSE_TRAINING": "fine-tuning.md#pruning-again",
    "PRUNER.CHECKPOINT_ID": "checkpoints.md#when-a-process-is-killed",
    "PRUNER.SPARSITY": "fine-tuning.md#hooks",
    "PRUNER.GRADUAL": "fine-tuning.md#hooks",
    "PRUNER.DISTILLATION": "fine-tuning.md#distillation",
}
_INTRODUCTION = """\
# Configuration keys

`python -m tests.docs` writes this page from the comments in `blendprune/config/keys.py`. The keys
exist under the overlay; `add_prune_config(cfg)` adds them without it. A flag of the
[command line](command-reference.md) sets its key, and a `KEY VALUE` pair at the end of a command
overrides both. In Python, the arguments of `blendprune.prune` have the names of the keys in lower
case.
"""


@dataclass
class Key:
    """A config key, or a comment that stands for itself and begins a section.

    Attributes:
        name (str): with its nodes; empty for a section.
        default (str): as it is written in Python; empty for a node.
        comment (str): what stands above it.
    """

    name: str
    default: str
    comment: str


def keys():
    """The keys that ``add_prune_config`` adds, in its order, among the sections (list[Key])."""
    source = _SOURCE.read_text()
    body = ast.parse(source).body
    function = next(n for n in body if getattr(n, "name", "") == "add_prune_config")
    lines, nodes, found, start = source.splitlines(), {"cfg": "", "cfg.MODEL": "MODEL."}, [], None
    for statement in function.body:
        call = getattr(statement, "value", None)
        if not isinstance(call, ast.Call) or getattr(call.func, "attr", "") != "setdefault":
            start = statement.end_lineno
            continue
        *sections, comment = _comments(lines[start : statement.lineno - 1])
        start = statement.end_lineno
        found += [Key("", "", section) for section in sections if section]
        key, default = call.args
        name = nodes[ast.unparse(call.func.value)] + key.value
        if isinstance(statement, ast.Assign):
            nodes[statement.targets[0].id] = f"{name}."
            default = None
        text = ast.unparse(default).replace("'", '"') if default else ""
        found.append(Key(name, "{}" if "new_allowed" in text else text, comment))
    return found


def _comments(lines):
    """The comments in some lines; those before the last end with an empty line."""
    texts = [line.strip().removeprefix("#").strip() for line in lines]
    return [" ".join(block.split("\n")).strip() for block in "\n".join(texts).split("\n\n")]


def page():
    """The page (str)."""
    flags, rows = flags_by_key(), [_INTRODUCTION, "## `MODEL`", "", *_HEAD]
    for key in keys():
        see = f" ([more]({_SEE[key.name]}))" if key.name in _SEE else ""
        if key.default:
            flag = f"`{flags[key.name]}`" if key.name in flags else ""
            rows.append(f"| `{key.name}` | `{key.default}` | {flag} | {key.comment}{see} |")
        elif key.name and key.comment:
            rows += ["", f"## `{key.name}`", "", f"{key.comment}{see}", "", *_HEAD]
        elif key.comment:
            title, _, rest = key.comment.partition(". ")
            rows += ["", f"## {title.rstrip('.')}", "", *([rest, ""] if rest else []), *_HEAD]
    return "\n".join(rows) + "\n"


_HEAD = ("| key | default | flag | meaning |", "|---|---|---|---|")
