"""The demo's story in a few steps: nothing is learned, but every part is run for real."""

import json
from pathlib import Path

import pytest
import torch

from blendprune.errors import ConfigError
from blendprune.report.table import report_table

# Small enough for a test; what it trains is worthless.
QUICK = [
    *("SOLVER.MAX_ITER", 4, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.WARMUP_ITERS", 2),
    *("PRUNER.CALIBRATION_IMAGES", 4, "PRUNER.ROUNDS", 2),
    *("MODEL.FPN.OUT_CHANNELS", 64, "MODEL.BASIS_MODULE.CONVS_DIM", 32),
]


@pytest.mark.slow
def test_the_story_runs_from_scenes_to_a_reloaded_file(overlay, tmp_path, capfd):
    from blendprune.demo import story as demo

    output = tmp_path / "demo"
    report = demo.run(str(output), opts=QUICK, num_train=8, num_test=4)

    assert json.loads((output / "report.json").read_text()) == report
    for key in ("flops", "params", "latency_ms"):
        assert report[key]["before"] > 0 and report[key]["after"] > 0
    assert report["flops"]["after"] <= 0.45 * report["flops"]["before"]
    assert set(report["ap"]) == {"dense", "pruned", "finetuned"}
    assert all(set(scores) == {"segm", "bbox"} for scores in report["ap"].values())
    assert report["reloaded_identical"] is True
    assert "reloaded in a new process: identical" in report_table(report)

    for name in ("dense", "finetuned"):
        config = (output / name / "config.yaml").read_text()
        assert f"OUTPUT_DIR: {output / name}" in config
    assert "FINETUNE: true" in (output / "pruned" / "config.yaml").read_text()
    tuned = torch.load(output / "finetuned" / "model_final.pth", weights_only=True)
    cut = torch.load(output / "pruned" / "model_pruned.pth", weights_only=True)
    assert {k: v.shape for k, v in tuned["model"].items()} == {
        k: v.shape for k, v in cut["model"].items()
    }
    assert any((tuned["model"][key] != cut["model"][key]).any() for key in cut["model"])
    assert (output / "detections.png").stat().st_size > 0

    shown = capfd.readouterr().out
    order = [shown.index(text) for text in ("[4/6]", "at the start: mask AP", "1 / 2   mask AP")]
    assert order == sorted(order) and "[6/6]" in shown
    assert len(shown.splitlines()) < 40


def test_an_output_folder_that_cannot_be_written_is_named(overlay, tmp_path):
    from blendprune.demo import story as demo

    (Path(tmp_path) / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to the output folder"):
        demo.run(str(tmp_path / "file" / "demo"))
