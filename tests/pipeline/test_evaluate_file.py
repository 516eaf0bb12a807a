"""``blendprune eval``: what detectron2's evaluators say of a file."""

import json

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_model

import blendprune
from blendprune.__main__ import main
from blendprune.data.digits import DIGITS_TEST
from blendprune.pipeline.evaluate_file import evaluation_table
from tests.helpers.digit_scenes import digit_scenes
from tests.helpers.exportable import one_level_retinanet


@pytest.fixture
def retinanet(registered, tmp_path):
    """A small pruned one, its config, and the folder with both; its test images are there."""
    torch.manual_seed(0)
    cfg = one_level_retinanet()
    cfg.MODEL.RETINANET.NUM_CLASSES, cfg.DATASETS.TEST = 10, (DIGITS_TEST,)
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    model = build_model(cfg)
    blendprune.prune(model, pruning_ratio=0.4, importance="magnitude", rounds=1)
    DetectionCheckpointer(model, str(tmp_path)).save("pruned")
    cfg.MODEL.WEIGHTS = str(tmp_path / "pruned.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    with digit_scenes(tmp_path, num_test=3):
        yield model.eval(), cfg, tmp_path
    blendprune.revert()


def evaluated(capsys, *command):
    assert main(["eval", "--json", *map(str, command)]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_way_to_name_a_model_gives_what_upstreams_evaluator_gives(retinanet, capsys):
    model, cfg, folder = retinanet
    evaluator = COCOEvaluator(DIGITS_TEST, output_dir=None, use_fast_impl=False)
    loader = build_detection_test_loader(cfg, DIGITS_TEST)
    expected = inference_on_dataset(model, loader, evaluator)
    capsys.readouterr()
    expected = json.loads(json.dumps(expected))
    assert expected["bbox"]["AP"] >= 0

    def same(found):
        return json.dumps(found) == json.dumps(expected)  # NaN, too

    assert same(evaluated(capsys, "--weights", folder / "pruned.pth"))
    assert same(evaluated(capsys, "--config-file", folder / "config.yaml"))
    with_flag = ("--config-file", folder / "config.yaml", "--weights", folder / "pruned.pth")
    assert same(evaluated(capsys, *with_flag))


def test_an_exported_file_needs_the_config(retinanet, capsys):
    model, _, folder = retinanet
    blendprune.export(model, str(folder / "model.onnx"))
    exported = ("--weights", folder / "model.onnx")
    found = evaluated(capsys, "--config-file", folder / "config.yaml", *exported)
    assert found["bbox"]["AP"] == pytest.approx(
        evaluated(capsys, "--weights", folder / "pruned.pth")["bbox"]["AP"], abs=0.05
    )
    assert main(["eval", *map(str, exported)]) == 2
    assert "give --config-file, the config of its model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ((), "give --config-file, or --weights"),
        (("--weights", "pruned.pth", "DATASETS.TEST", "()"), "DATASETS.TEST is empty"),
        (("--weights", "pruned.pth", "DATASETS.TEST", "('other',)"), "'other' is not registered"),
        (("--weights", "pruned.pth", "NO.KEY", "1"), "NO.KEY"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(
    retinanet, capsys, monkeypatch, command, sentence
):
    monkeypatch.chdir(retinanet[2])
    assert main(["eval", *command]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_the_table_has_every_metric_and_a_blank_for_none():
    table = evaluation_table({"bbox": {"AP": 40.123, "AP50": float("nan")}, "segm": {"AP": 36.6}})
    assert "bbox: AP" in table and "40.12" in table and "36.60" in table and "nan" not in table
