"""What people paste into a report of a fault."""

import configparser
import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path

import torch

import blendprune
from blendprune.__main__ import main
from blendprune.deployment.extra import PACKAGES
from blendprune.pipeline.doctor import doctor_table, examine

ROOT = Path(__file__).parent.parent.parent


def test_it_names_what_is_installed_and_what_runs(registered):
    found = examine(blendprune.status())
    assert found["packages"]["torch-pruning"] == importlib.metadata.version("torch-pruning")
    assert found["devices"]["cpu"].count("multiples of") == 1
    assert found["threads"] == torch.get_num_threads()
    assert sum(map(len, found["patches"].values())) == len(blendprune.status())
    shown = doctor_table(found)
    assert re.search(rf"^PyTorch +{re.escape(torch.__version__)} @", shown, re.M)
    assert "CPUExecutionProvider" in shown and shown.endswith("nothing is wrong")


def test_a_detectron2_without_its_extension_is_explained(registered):
    found = examine(blendprune.status())
    line = "detectron2._C    not built correctly: No module named 'detectron2._C'"
    shown = doctor_table({**found, "detectron2": f"PyTorch 2\n{line}\nPillow 13"})
    [said] = [each for each in shown.splitlines() if each.startswith("detectron2._C")]
    assert said.startswith(f"{line}; not needed: ") and "Pillow 13" in shown.splitlines()


def test_what_is_missing_has_a_next_step(registered, monkeypatch):
    find = importlib.util.find_spec

    def without(name, *args):
        return None if name == "openvino" else find(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    found = examine(blendprune.status())
    assert "openvino runs on" not in found["engines"]
    assert "pip install 'blendprune[deploy]'" in doctor_table(found)


def test_a_patch_that_no_longer_fits_is_a_problem(registered):
    first, *rest = blendprune.status()
    drifted = type(first)(**{**vars(first), "state": "drifted", "detail": "its source changed"})
    found = examine([drifted, *rest])
    assert found["patches"]["drifted"] == [first.name]
    assert any(first.name in x and "its source changed" in x for x in found["problems"])


def test_the_command_prints_json(capsys):
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"]["blendprune"] is not None
    blendprune.revert()


def test_the_packages_of_the_extra_are_those_of_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.extras_require"]["deploy"].split()
    assert tuple(line.partition(">=")[0] for line in lines) == PACKAGES
