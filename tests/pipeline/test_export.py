"""``blendprune export``: from a config or a checkpoint to files."""

import json
import os

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

import blendprune
from blendprune.__main__ import main
from blendprune.data.digits import DIGITS_TRAIN
from tests.helpers.digit_scenes import digit_scenes
from tests.helpers.exportable import one_level_retinanet


@pytest.fixture
def retinanet(registered, tmp_path):
    """A folder with the config of a small one and its pruned weights; its images are there."""
    cfg = one_level_retinanet()
    cfg.MODEL.RETINANET.NUM_CLASSES = 10
    cfg.DATASETS.TRAIN, cfg.INPUT.MASK_FORMAT = (DIGITS_TRAIN,), "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.SOLVER.IMS_PER_BATCH = (64,), 2
    model = build_model(cfg)
    blendprune.prune(model, pruning_ratio=0.4, importance="magnitude", rounds=1)
    DetectionCheckpointer(model, str(tmp_path)).save("pruned")
    cfg.MODEL.WEIGHTS = str(tmp_path / "pruned.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    with digit_scenes(tmp_path):
        yield tmp_path
    blendprune.revert()


def exported(capsys, *command):
    assert main(["export", *map(str, command), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [core] = found["cores"]
    assert found["family"] == "RetinaNet" and core["bytes"] == os.path.getsize(core["file"])
    return core


def test_a_pruned_model_becomes_int8_on_the_training_images_of_its_config(retinanet, capsys):
    output = retinanet / "model.onnx"
    core = exported(
        capsys, "--config-file", retinanet / "config.yaml", "--output", output, "--int8"
    )
    assert core["file"] == str(output) and core["int8"]["inputs"] == 128
    assert core["bytes"] < 0.5 * os.path.getsize(retinanet / "pruned.pth")
    [found] = blendprune.runtime.load(output, threads=1)([{"image": torch.rand(3, 64, 64)}])
    assert found["instances"].image_size == (64, 64)


@pytest.mark.slow
def test_a_pruned_model_of_a_config_keeps_its_widths(retinanet, capsys):
    core = exported(
        capsys, "--config-file", retinanet / "config.yaml", "--output", retinanet / "model.onnx"
    )
    assert not core["int8"] and core["bytes"] < os.path.getsize(retinanet / "pruned.pth")


@pytest.mark.slow
def test_a_pruned_checkpoint_becomes_int8_on_the_images_that_its_own_config_names(
    retinanet, capsys
):
    output = retinanet / "model.onnx"
    core = exported(capsys, "--weights", retinanet / "pruned.pth", "--output", output, "--int8")
    assert core["int8"]["inputs"] == 128


@pytest.mark.slow
def test_a_pruned_checkpoint_needs_no_config(retinanet, capsys):
    weights, output = str(retinanet / "pruned.pth"), str(retinanet / "model.onnx")
    assert main(["export", "--weights", weights, "--output", output]) == 0
    shown = capsys.readouterr().out
    assert os.path.isfile(output) and f"loading {weights}" in shown and output in shown
