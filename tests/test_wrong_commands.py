"""Wrong commands: each gets one sentence and exit code 2, and leaves every file as it was.

They stand in ``wrong_commands.txt``.
"""

import re
import sys
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

import blendprune
from blendprune.__main__ import main
from tests.helpers.sentences import assert_sentence, contents
from tests.helpers.small_zoo import config_of

# Two lines a case: the command, and, indented, its sentence.
CASES = dict(
    re.findall(
        r"^(\S.*)\n    (\S.*)$", Path(__file__).with_name("wrong_commands.txt").read_text(), re.M
    )
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a trained model, its config, and files that are no such thing."""
    folder = tmp_path_factory.mktemp("wrong")
    with blendprune.applied():
        cfg = config_of("retinanet", "MODEL.RESNETS.DEPTH", 18, "INPUT.MIN_SIZE_TEST", 64)
        cfg.PRUNER.IMPORTANCE = "magnitude"
        DetectionCheckpointer(build_model(cfg), str(folder)).save("dense")
        cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "dense.pth", "output"
        (folder / "dense.yaml").write_text(cfg.dump())
        texts = {
            "empty.yaml": "",
            "list.yaml": "- 1\n",
            "word.yaml": "hello\n",
            "broken.yaml": "MODEL: [\n",
            "key.yaml": "PRUNER:\n  IMPORTANSE: obs\n",
            "type.yaml": "PRUNER:\n  LEVELS: 0.5\n",
            "node.yaml": "PRUNER: 3\n",
            "file": "hello",
            "broken_module.py": "1 / 0\n",
            "a_module.py": "VALUE = 1\n\ndef fails(cfg):\n    raise KeyError('MINE')\n",
            "empty.pth": "",
        }
        for name, text in texts.items():
            (folder / name).write_text(text)
        (folder / "folder").mkdir()
        (folder / "folder" / "inside").write_text("kept")
        (folder / "truncated.pth").write_bytes((folder / "dense.pth").read_bytes()[:5000])
        weights = torch.load(folder / "dense.pth")["model"]
        torch.save([1], folder / "list.pth")
        torch.save({"model": {}}, folder / "nothing.pth")
        backbone = {name: value for name, value in weights.items() if "bottom_up" in name}
        torch.save({"model": backbone}, folder / "backbone.pth")
        weights["head.cls_score.weight"][0] = torch.nan
        torch.save({"model": weights}, folder / "nan.pth")
        yield folder


@pytest.mark.parametrize("command", CASES)
def test_a_wrong_command_gets_its_sentence_and_changes_no_file(made, monkeypatch, capsys, command):
    monkeypatch.chdir(made)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = contents(made)
    words = [] if command == "(nothing)" else command.split()
    assert main(["" if word == "''" else word for word in words]) == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("blendprune: ")
    assert_sentence(last.removeprefix("blendprune: "), CASES[command])
    assert contents(made) == before


def test_there_are_many():
    assert len(CASES) > 120
