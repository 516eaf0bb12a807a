"""The GPU benchmark, tried on the CPU with narrow models."""

import json

import pytest

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.work import Work

SMALL = ["--device", "cpu", "--small", "--size", "64", "96", "--runs", "1", "--batches", "1"]
SMALL += ["--models", "blendmask", "--round-to", "16"]
NAME = "blendmask, deployed, bf16, batch 1, pair"


@pytest.fixture
def run(registered, tmp_path, monkeypatch, capsys):
    """A function that runs the benchmark; gives its results and what it printed."""
    # What it applies and switches off is for a process of its own.
    monkeypatch.setattr("logging.disable", lambda level: None)

    def start(*args):
        output = tmp_path / "results" / "gpu.json"
        main([*SMALL, "--output", str(output), *args])
        return json.loads(output.read_text()), capsys.readouterr().out

    return start


def test_dense_and_pruned_models_are_timed_and_printed(run):
    results, printed = run("--steps", "deployed, bf16")
    assert results["machine"]["device"].startswith("CPU")
    rows = results["steps"][NAME]["found"]
    assert list(rows) == ["dense", "2x, multiples of 16"]
    assert rows["dense"]["flops"] == 1 and 0.49 <= rows["2x, multiples of 16"]["flops"] <= 0.5
    for row in rows.values():
        for kind in ("whole", "core"):
            assert 0 < row[kind]["low"] <= row[kind]["ms"] <= row[kind]["high"]
    assert "| blendmask | deployed | bf16" in " ".join(printed.split())


def test_a_step_that_fails_is_recorded_and_the_others_go_on(run, monkeypatch):
    def fail(self, model, form, *rest):
        if form == "eager":
            raise RuntimeError("out of memory")
        return {"dense": {"error": "out of reach"}}

    monkeypatch.setattr(Work, "_time", fail)
    results, printed = run("--steps", "bf16")
    found = {name: step["found"] for name, step in results["steps"].items()}
    assert found["blendmask, eager, bf16, batch 1, pair"] == {
        "error": "RuntimeError: out of memory"
    }
    assert found[NAME] == {"dense": {"error": "out of reach"}}
    assert "blendmask, eager, bf16, batch 1, pair failed: RuntimeError: out of memory" in printed


def test_what_does_not_fit_into_the_budget_is_left_out(run):
    results, printed = run("--budget", "0", "--steps", "bf16")
    assert results["steps"] == {} and NAME in results["left out"]
    assert f"left out: {NAME}" in printed
