"""What a bench writes."""

import json
import os

import pytest
import torch
from detectron2.modeling import build_model

import blendprune
from blendprune.errors import CheckpointError, ConfigError
from blendprune.pipeline.bench import read_models, write_bench
from tests.helpers.exportable import one_level_retinanet

TIMED = {"model": "dense", "form": "eager", "batch": 1, "ms": 5.0, "low": 4.0, "high": 6.0}
TIMED |= {"images_per_s": 200.0, "speedup": 1.0, "speedup_in_form": 1.0, "flops": 1.0}
TIMED |= {"peak_mb": None}
FAILED = {"model": "dense", "form": "compiled", "error": "no compiler"}


def written(rows, folder):
    found = {"machine": "x86_64", "threads": 1, "image": [3, 8, 8], "runs": 5, "rows": rows}
    write_bench(found, str(folder))
    assert json.loads((folder / "bench.json").read_text()) == found
    return sorted(os.listdir(folder))


def test_a_plain_checkpoint_is_of_the_model_that_the_other_file_was_pruned_from(
    registered, tmp_path
):
    cfg = one_level_retinanet()
    model = build_model(cfg).eval()
    dense, pruned = str(tmp_path / "dense.pth"), str(tmp_path / "pruned.pth")
    torch.save({"model": model.state_dict()}, dense)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    blendprune.prune(model, pruning_ratio=0.4, importance="magnitude", rounds=1)
    torch.save({"model": model.state_dict(), "struct": blendprune.structure_of(model)}, pruned)
    found = read_models([dense, pruned])
    assert list(found) == ["dense", "pruned"] and not any(m.training for m in found.values())
    read = found["dense"].state_dict()
    assert all(torch.equal(read[name], value) for name, value in weights.items())
    with pytest.raises(ConfigError, match="name a file beside it that was pruned from it"):
        read_models([dense])
    torch.save({"model": {"other": torch.zeros(1)}}, dense)
    with pytest.raises(CheckpointError, match="weights"):
        read_models([dense, pruned])


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
