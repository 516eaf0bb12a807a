"""The recipes for own data and backbones: from training to a file that runs."""

import json

import onnx
import pytest
import torch

import blendprune
from tests.examples.conftest import EXAMPLES, small


def assert_runs(found):
    """Fail unless the recipe has pruned, fine-tuned and exported a model, and has run the file."""
    report = json.loads((found.folder / "pruned/report.json").read_text())
    assert report["flops"]["after"] < 0.55 * report["flops"]["before"]
    tuned = found.folder / "pruned/finetune/model_final.pth"
    struct = torch.load(tuned, weights_only=True)["struct"]
    assert struct["size"] < 0.8 * struct["dense_size"]
    operators = [node.op_type for node in onnx.load(found.folder / "model.onnx").graph.node]
    assert "QuantizeLinear" in operators
    assert (found.folder / "detections.png").stat().st_size
    assert "detections.png: " in found.said


def test_the_recipe_for_own_data_ends_with_an_int8_file_that_runs(blendmask):
    assert_runs(blendmask)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet"])
def test_so_it_does_for_other_models(recipe, name):
    found = recipe(name)
    assert_runs(found)
    if name == "retinanet":
        modules = torch.load(found.folder / "pruned/model_pruned.pth", weights_only=True)["struct"]
        widths = [
            x["out_channels"]
            for key, x in modules["modules"].items()
            if key.endswith("depthwise") and "out_channels" in x
        ]
        assert len(widths) == 8 and sum(widths) < 2 * 4 * (32 + 48 + 96 + 160)


def test_a_backbone_of_ones_own_can_be_pruned_without_more(shell):
    opts = small("retinanet")[:-2]
    config = ("--config-file", "configs/own_retinanet.yaml", "--import", "own_backbone")
    plan = json.loads(shell("blendprune", "plan", *config, "--json", *opts))
    layers = {
        member["layer"]
        for group in plan["groups"]
        if not group["frozen_reason"]
        for member in group["members"]
    }
    for stage in ("s2", "s3", "s4", "s5"):
        assert f"backbone.bottom_up.stages.{stage}.1.depthwise" in layers


def test_sixty_lines_make_a_detector_prunable_that_blendprune_does_not_know(shell, tmp_path):
    assert len((EXAMPLES / "own_detector/prunable.py").read_text().splitlines()) <= 60
    said = shell("python", "own_detector/prune.py", "--output", tmp_path)
    assert "outputs identical" in said
    content = torch.load(tmp_path / "model_pruned.pth", weights_only=True)
    modules = content["struct"]["modules"]
    # The operator, the weight per channel and the head per instance follow their layers.
    layers = ("stem", "tower", "describe_conv")
    widths = {name: modules[name]["out_channels"] for name in layers}
    assert all(width < 32 for width in widths.values())
    assert modules["scale"]["scale"] == [widths["stem"], 1, 1]
    assert modules["describe_fc"]["in_features"] == 9 * widths["describe_conv"]
    assert modules["heatmap"]["out_channels"] == 3


def test_a_file_runs_on_a_picture_in_either_engine(shell, blendmask, tmp_path):
    for engine in ("onnxruntime", "openvino"):
        output = tmp_path / f"{engine}.png"
        flags = ("--engine", engine, "--min-score", 0, "--output", output, "--names", *"abcdefghij")
        said = shell(
            "python", "detect.py", blendmask.folder / "model.onnx", blendmask.picture, *flags
        )
        assert "png: 0 objects" not in said and output.stat().st_size


def test_a_pruned_model_stands_behind_detectron2s_predictor(shell, blendmask):
    folder = blendmask.folder / "pruned/finetune"
    weights = ("MODEL.WEIGHTS", folder / "model_final.pth")
    said = shell("python", "predictor.py", folder / "config.yaml", blendmask.picture, *weights)
    found = said.splitlines()
    assert found[-1] == f"{len(found) - 1} objects" and len(found) > 1


@pytest.mark.slow
def test_rounds_of_pruning_and_fine_tuning_go_on_from_one_another(shell, blendmask, tmp_path):
    opts = ("PRUNER.IMPORTANCE", "magnitude", "PRUNER.ROUNDS", 1)
    shell("sh", "rounds.sh", blendmask.folder / "dense", tmp_path, 2, 0.7, *opts)
    reports = [json.loads((tmp_path / x / "report.json").read_text()) for x in ("1", "2")]
    assert reports[1]["flops"]["before"] == reports[0]["flops"]["after"]
    model = blendprune.load(str(tmp_path / "2/finetune/model_final.pth"))
    assert sum(p.numel() for p in model.parameters()) == reports[1]["params"]["after"]


def test_every_example_is_on_the_page_and_fits_on_a_screen():
    page = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".sh", ".ipynb"):
            assert path.name in page
        if path.suffix in (".py", ".sh"):
            assert len(path.read_text().splitlines()) <= 76, path.name
