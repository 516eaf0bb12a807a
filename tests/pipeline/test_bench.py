"""What a bench writes."""

import json
import os

import pytest

from blendprune.pipeline.bench import write_bench

TIMED = {"model": "dense", "form": "eager", "batch": 1, "ms": 5.0, "low": 4.0, "high": 6.0}
TIMED |= {"images_per_s": 200.0, "speedup": 1.0, "speedup_in_form": 1.0, "flops": 1.0}
TIMED |= {"peak_mb": None}
FAILED = {"model": "dense", "form": "compiled", "error": "no compiler"}


def written(rows, folder):
    found = {"machine": "x86_64", "threads": 1, "image": [3, 8, 8], "runs": 5, "rows": rows}
    write_bench(found, str(folder))
    assert json.loads((folder / "bench.json").read_text()) == found
    return sorted(os.listdir(folder))


def test_evaluated_forms_are_drawn(tmp_path):
    rows = [{**TIMED, "ap": {"segm": 40.0}}, FAILED]
    assert written(rows, tmp_path) == ["bench.html", "bench.json", "bench.png"]


@pytest.mark.parametrize("rows", [[TIMED], [FAILED], [TIMED, {**FAILED, "ap": {"segm": 40.0}}]])
def test_nothing_is_drawn_where_no_form_that_ran_was_evaluated(tmp_path, rows):
    assert written(rows, tmp_path) == ["bench.html", "bench.json"]


def test_the_page_has_the_table_and_what_failed(tmp_path):
    times = {"ms": 2.5, "low": 2.0, "high": 3.0}
    pruned = {**TIMED, **times, "model": "<pruned>", "ap": {"segm": 39.5}}
    four = {**pruned, "batch": 4, "ms": 9.0, "high": 9.5}
    rows = [{**TIMED, "ap": {"segm": 40.0}}, pruned, four, FAILED]
    written(rows, tmp_path)
    page = (tmp_path / "bench.html").read_text()
    assert "eager, &lt;pruned&gt;: 2.5 ms" in page and "eager, 4 images, &lt;pruned&gt;" in page
    assert "&lt;pruned&gt;, eager: 2.5 ms, AP 39.5" in page
    assert "dense, compiled: no compiler" in page and "<td" in page
    assert "<pruned>" not in page
