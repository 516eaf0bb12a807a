"""What a shell gets that asks for completions, as argcomplete's shell code asks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import blendprune
from blendprune.command_line.completion import complete
from blendprune.command_line.parser import GROUPS, make_parser

ROOT = Path(blendprune.__file__).parent.parent


def asked(line, folder):
    """The words that may stand at the end of a line."""
    answer = folder / "answer"
    shell = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "blendprune"]
    subprocess.run(command, cwd=folder, env={**os.environ, **shell}, check=True)
    return {word.strip() for word in answer.read_text().split("\n")}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("blendprune ", {name for names in GROUPS.values() for name in names}),
        ("blendprune pr", {"prune"}),
        ("blendprune prune --max-", {f"--max-{x}" for x in ("flops", "params", "activations",
                                                            "memory", "latency")}),
        ("blendprune bench dense.p", {"dense.pth"}),
        ("blendprune export --config-file C.yaml --in", {"--int8"}),
    ],
)  # fmt: skip
def test_commands_flags_and_files_are_completed(tmp_path, line, words):
    (tmp_path / "dense.pth").touch()
    assert asked(line, tmp_path) - {"-h", "--help", "--version"} == words


def test_without_argcomplete_the_shell_gets_nothing(monkeypatch, capsys):
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    with pytest.raises(SystemExit, match="1"):
        complete(make_parser())
    assert capsys.readouterr() == ("", "")


def test_argcomplete_finds_its_mark_in_the_module_of_the_command():
    assert "PYTHON_ARGCOMPLETE_OK" in (ROOT / "blendprune/__main__.py").read_text()[:1024]
