"""The table of compatibility: what setup.cfg promises is tried, and what is wrong is seen."""

import re
import subprocess

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.compat import __main__ as compat
from tests.compat.combinations import (
    COMBINATIONS,
    DETECTRON2,
    PACKAGES,
    ROOT,
    TESTS,
    Combination,
    setup_cfg,
)
from tests.compat.environment import Environment, Unavailable
from tests.compat.table import HEADERS, markdown, row

FOUND = {
    "name": "py3.12-newest-wheel",
    "python": "3.12",
    "packages": "newest",
    "detectron2": "wheel",
    "adelaidet": False,
    "versions": {"python": "3.12.1", "torch": "2.15.0+cpu"},
    "patches": {"save-struct": "applied", "remember-config": "applied"},
    "tests": {"passed": 7, "skipped": 2},
    "failures": [],
    "left_out": {},
    "seconds": 90.0,
}


def test_the_pythons_that_setup_cfg_allows_are_those_of_the_table():
    (allowed,) = map(SpecifierSet, setup_cfg("python_requires"))
    tried = {combination.python for combination in COMBINATIONS}
    assert tried == {f"3.{minor}" for minor in range(30) if allowed.contains(f"3.{minor}")}


def test_the_oldest_releases_that_setup_cfg_allows_are_tried():
    pins = {Requirement(line).name: Requirement(line) for line in PACKAGES["oldest"]()}
    bounds = {r.name: r.specifier for r in map(Requirement, setup_cfg("install_requires"))}
    for name, specifier in bounds.items():
        for bound in specifier:
            if bound.operator == ">=":
                assert next(iter(pins[name].specifier)).version.startswith(bound.version)
    assert {c.detectron2 for c in COMBINATIONS if c.packages == "oldest"} == set(DETECTRON2)


def test_the_newest_torch_comes_without_a_bound():
    assert {"torch", "torchvision", "numpy", "timm==0.4.12"} <= set(PACKAGES["newest"]())
    changed = set(PACKAGES["oldest-torch"]()) ^ set(PACKAGES["newest"]())
    assert changed == {"torch", "torch==2.6.0", "torchvision", "torchvision==0.21.0"}


def test_combinations_have_names_of_their_own_and_the_tests_exist():
    assert len({combination.name for combination in COMBINATIONS}) == len(COMBINATIONS)
    left_out = [name.partition("::")[0] for d in DETECTRON2.values() for name in d.left_out]
    assert all((ROOT / path).exists() for path in (*TESTS, *left_out))


@pytest.fixture
def uv(monkeypatch):
    """Commands that Environment ran, in place of uv, which says that it cannot."""
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 2, "", "warning\nerror: no network\n")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_python_that_is_not_there_is_a_row_that_says_so(uv, tmp_path):
    found = compat.examine(Combination("3.12", "newest", "wheel"), tmp_path, TESTS)
    assert found["unavailable"] == "no Python 3.12 on this machine: error: no network"
    assert row(found) == ["3.12", "", "0.7.2", "", "newest", found["unavailable"], *[""] * 4]
    assert compat.holds(found)
    assert "--no-python-downloads" in uv[0] and len(uv) == 1


@pytest.mark.parametrize(
    ("combination", "variable"),
    [
        (Combination("3.12", "newest", "0.6"), "DETECTRON2_ROOT"),
        (Combination("3.12", "newest", "wheel", True), "ADELAIDET_ROOT"),
    ],
)
def test_a_checkout_that_is_not_named_is_a_row_that_says_so(
    uv, tmp_path, monkeypatch, combination, variable
):
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(Unavailable, match=f"^{variable} names no checkout$"):
        Environment(combination, tmp_path).build()
    assert uv == []


def test_a_row_counts_what_applies_and_what_passes():
    assert dict(zip(HEADERS, row(FOUND), strict=True)) == {
        "Python": "3.12.1",
        "PyTorch": "2.15.0",
        "detectron2": "0.7.2",
        "AdelaiDet": "",
        "other packages": "newest",
        "patches that apply": "2 of 2",
        "tests passed": "7",
        "failed": "0",
        "skipped": "2",
        "minutes": "1.5",
    }
    assert compat.holds(FOUND)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"failures": ["tests.test_some::test_one"]}, "tests.test_some::test_one failed"),
        ({"patches": {"save-struct": "drifted"}}, "patch save-struct drifted"),
        ({"patches": {}}, "none: it does not import"),
        ({"tests": {}}, "| 0 "),
    ],
)
def test_what_is_wrong_is_said_and_fails_the_command(change, said):
    assert not compat.holds({**FOUND, **change})
    assert said in markdown([{**FOUND, **change}])


def test_what_is_left_out_is_said_with_its_reason():
    found = markdown([{**FOUND, "left_out": {"tests/patches": "of another release"}}])
    assert found.endswith(
        "\n- py3.12-newest-wheel: tests/patches left out: of another release\n"
    )  # fmt: skip


def test_results_of_several_calls_stand_in_one_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compat, "FOLDER", tmp_path)

    def examine(combination, folder, tests):
        asked.append(tests)
        return {**FOUND, "name": combination.name, "python": combination.python}

    asked = []
    monkeypatch.setattr(compat, "examine", examine)
    first, second = COMBINATIONS[0].name, COMBINATIONS[-1].name
    assert compat.main([second]) == 0
    assert compat.main([first, "--all"]) == 0
    assert asked == [TESTS, ["tests"]]
    assert len((tmp_path / "compat.md").read_text().splitlines()) == 4
    assert re.findall(r'"name": "(.*)"', (tmp_path / "compat.json").read_text()) == [first, second]
    with pytest.raises(SystemExit):
        compat.main(["nothing"])
    assert "see --list" in capsys.readouterr().err
