"""Tables of the results: columns are the FLOPs with results, cells are means over the seeds."""

import json

from benchmarks.accuracy.table import tables


def _write(folder, seed, results):
    path = folder / "retinanet" / seed / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(results))


def test_columns_are_the_levels_with_results_and_cells_are_means(tmp_path):
    _write(tmp_path, "1", {"dense": {"bbox": 30.0}, "blendprune 0.125": {"bbox": 20.0}})
    tuned = {"blendprune 0.5, fine-tuned without a teacher": {"bbox": 29.0}}
    _write(tmp_path, "2", {"dense": {"bbox": 31.0}, "blendprune 0.125": {"bbox": 21.0}} | tuned)
    lines = [line.replace(" ", "") for line in tables(tmp_path).splitlines()]
    assert "|FLOPsleft|0.5|0.125|" in lines
    assert "|dense|30.5|30.5|" in lines
    assert "|blendprune||20.5|" in lines
    assert "|blendprune,fine-tunedwithoutateacher|29.0(1)||" in lines


def test_a_dense_model_alone_has_a_column(tmp_path):
    _write(tmp_path, "1", {"dense": {"bbox": 30.0}})
    lines = [line.replace(" ", "") for line in tables(tmp_path).splitlines()]
    assert lines[-1] == "|dense|30.0|"
