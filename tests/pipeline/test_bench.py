"""What a bench writes."""

import json
import os
import sys

import pytest

from blendprune.pipeline.bench import write_bench

TIMED = {"model": "dense", "form": "eager", "batch": 1, "ms": 5.0, "low": 4.0, "high": 6.0}
FAILED = {"model": "dense", "form": "compiled", "error": "no compiler"}


def written(rows, folder):
    found = {"machine": "x86_64", "threads": 1, "rows": rows}
    write_bench(found, str(folder))
    assert json.loads((folder / "bench.json").read_text()) == found
    return sorted(os.listdir(folder))


def test_evaluated_forms_are_drawn(tmp_path):
    rows = [{**TIMED, "ap": {"segm": 40.0}}, FAILED]
    assert written(rows, tmp_path) == ["bench.json", "bench.png"]


@pytest.mark.parametrize("rows", [[TIMED], [FAILED], [TIMED, {**FAILED, "ap": {"segm": 40.0}}]])
def test_nothing_is_drawn_where_no_form_that_ran_was_evaluated(tmp_path, rows):
    assert written(rows, tmp_path) == ["bench.json"]


def test_without_matplotlib_the_log_says_what_is_missing(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert written([{**TIMED, "ap": {"segm": 40.0}}], tmp_path) == ["bench.json"]
    [message] = [record.getMessage() for record in caplog.records]
    assert "bench.png is not drawn" in message and message.endswith(": pip install matplotlib")
