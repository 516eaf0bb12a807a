"""``docs/command-reference.md``: every command and argument, from the parser."""

import argparse

from blendprune.command_line.parser import EXAMPLES, GROUPS, make_parser
from blendprune.config.target import TARGETS

_INTRODUCTION = """\
# Command reference

`python -m tests.docs` writes this page from the parser; `blendprune COMMAND --help` shows the same.
[The command line](command-line.md) explains what the commands have in common.
"""
# Arguments of the parser whose keys have other names.
_KEYS = {
    "ignore": "IGNORED_LAYERS",
    "layer_ratio": "PRUNING_RATIO_DICT",
    "level": "LEVELS",
}
_KEYS |= {name: name.upper() for name in (*TARGETS, "importance", "normalize", "runtime")}
_KEYS |= {name: name.upper() for name in ("sensitivity", "round_to")}


def parsers():
    """The parser of each command (dict[str, ArgumentParser])."""
    actions = make_parser()._actions
    return next(a.choices for a in actions if isinstance(a, argparse._SubParsersAction))


def flags_by_key():
    """The flag that sets a config key (dict[str, str])."""
    return {
        f"PRUNER.{_KEYS[action.dest]}": action.option_strings[0]
        for action in parsers()["prune"]._actions
        if action.dest in _KEYS
    }


def page():
    """The page (str)."""
    found, lines = parsers(), [_INTRODUCTION]
    for task, names in GROUPS.items():
        lines += [f"## {task[0].upper()}{task[1:]}", ""]
        for name in names:
            lines += _command(name, found[name])
    return "\n".join(lines).rstrip() + "\n"


def _command(name, parser):
    shown = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
    lines = [f"### {name}", "", parser.description, ""]
    if shown:
        lines += ["| argument | default | meaning |", "|---|---|---|", *map(_row, shown), ""]
    return [*lines, "```sh", *(f"blendprune {line}" for line in EXAMPLES[name]), "```", ""]


def _row(action):
    values = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
    takes = action.nargs != 0
    words = [*action.option_strings[:1], *(values if takes else ())]
    if action.nargs in ("+", argparse.REMAINDER):
        words.append("…")
    default = "" if not takes or action.default in (None, [], ()) else f"`{action.default}`"
    key = f"`PRUNER.{_KEYS[action.dest]}`" if action.dest in _KEYS else ""
    key = "`MODEL.WEIGHTS`" if action.option_strings == ["--weights"] else key
    required = "required" if action.required and action.option_strings else ""
    meaning = "; ".join(filter(None, [action.help, required, key and f"key {key}"]))
    return f"| `{' '.join(map(str, words))}` | {default} | {meaning} |"
