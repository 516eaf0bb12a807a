"""Fine-tuning a pruned file on other labels, and one that lost its structure."""

import copy
import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

import blendprune
from blendprune.checkpoint.loading import restructure_from
from blendprune.errors import CheckpointError, StructError
from blendprune.pruning.tracing.layer_kinds import is_prunable_layer
from tests.helpers import small_projects, small_zoo
from tests.helpers.slow import slow_but
from tests.zoo import build_dense, few_regions, settle_norms, train_one_step, training_batch

SIZE = 64
BOX, SEM, POINT = (f"MODEL.{n}.NUM_CLASSES" for n in ("ROI_HEADS", "SEM_SEG_HEAD", "POINT_HEAD"))
RATIOS = ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.25, 0.5, 1.0, 2.0, 4.0]])
SIZES = ("MODEL.ANCHOR_GENERATOR.SIZES", [[side] for side in (32, 64, 128, 256, 512)])
CLS, BOXES, MASKS = ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor")
OBJECTNESS, DELTAS = ("rpn_head.objectness_logits", "rpn_head.anchor_deltas")
POINTS = ["coarse_head.prediction", *(f"point_head.fc{n}" for n in (1, 2, 3))]
POINTS += ["point_head.predictor", CLS, BOXES]
# Family → changes of the config, and the layers that they change.
CHANGES = {
    "mask-fpn": [
        ((BOX, 3), [CLS, BOXES, MASKS]),
        ((BOX, 100, *RATIOS), [CLS, BOXES, MASKS, OBJECTNESS, DELTAS]),
        (("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True), [BOXES]),
    ],
    "keypoint": [(("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 5), ["keypoint_head.score_lowres"])],
    "retinanet": [
        (("MODEL.RETINANET.NUM_CLASSES", 3), ["head.cls_score"]),
        (("MODEL.RETINANET.NUM_CLASSES", 100, *SIZES), ["head.cls_score", "head.bbox_pred"]),
    ],
    "panoptic": [((BOX, 9, SEM, 7), [CLS, BOXES, MASKS, "sem_seg_head.predictor"])],
    # What the point head reads contains predictions.
    "point-rend": [((BOX, 3, POINT, 3), POINTS), ((BOX, 9, POINT, 9), POINTS)],
    "panoptic-deeplab": [((SEM, 30), ["sem_seg_head.predictor"])],
}


@pytest.mark.parametrize("family", slow_but(CHANGES, "mask-fpn", "retinanet", "point-rend"))
def test_a_pruned_model_is_fine_tuned_on_other_labels(overlay, tmp_path, caplog, family):
    families = small_zoo if family in small_zoo.FAMILIES else small_projects
    model = build_dense(families.config_of(family), SIZE)
    images = [{"image": torch.rand(3, SIZE, SIZE) * 255, "height": SIZE, "width": SIZE}]
    settle_norms(model, images)
    blendprune.prune(model, images, max_flops=0.7, importance="magnitude", rounds=1)
    path = _save(model, tmp_path, "pruned")
    for change, layers in CHANGES[family]:
        cfg = _merged(families.config_of(family), *change)
        dense = build_dense(cfg, SIZE)
        finetuned = build_dense(_merged(cfg, "MODEL.FINETUNE", True, "MODEL.WEIGHTS", path), SIZE)
        skipped = _load(finetuned, path, caplog)
        assert all(name.endswith(tuple(layers)) for name in skipped)
        assert len(skipped) == len(layers)
        widths, theirs = _outputs(dense), _outputs(finetuned)
        assert all(theirs[name] == widths[name] for name in finetuned.blendprune_predictions)
        weights = finetuned.state_dict()
        for name, value in model.state_dict().items():
            if name.rpartition(".")[0] not in skipped:
                assert torch.equal(weights[name], value), name
        few_regions(finetuned)
        train_one_step(finetuned, training_batch(cfg, SIZE))

    # The fine-tuned model, too, has its widths in its file.
    loaded = blendprune.load(_save(finetuned, tmp_path, "finetuned"))
    assert _outputs(loaded) == _outputs(finetuned)
    struct = blendprune.structure_of(loaded)
    assert struct["prediction_layers"] == blendprune.structure_of(model)["prediction_layers"]


def test_a_file_of_an_earlier_version_keeps_its_widths_exactly(overlay, tmp_path):
    cfg = small_zoo.config_of("rpn-fpn")
    model = build_dense(cfg, SIZE)
    blendprune.prune(model, max_flops=0.7, importance="magnitude", rounds=1)
    path = _save(model, tmp_path, "pruned")
    file = torch.load(path)
    del file["struct"]["dense"], file["struct"]["prediction_layers"]
    torch.save(file, path)
    finetuned = build_dense(_merged(cfg, "MODEL.FINETUNE", True, "MODEL.WEIGHTS", path), SIZE)
    DetectionCheckpointer(finetuned).load(path)
    _assert_same_weights(finetuned, model)
    _assert_same_weights(blendprune.load(path), model)
    with pytest.raises(StructError, match="class counts included"):
        build_dense(_merged(cfg, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0]]), SIZE)


REFUSED = {
    "another pyramid": ("MODEL.FPN.OUT_CHANNELS", 32),
    "another stem": ("MODEL.RESNETS.STEM_OUT_CHANNELS", 32),
    "another resolution of regions": ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14),
}


def test_other_widths_inside_the_network_are_refused(overlay, tmp_path):
    model = build_dense(small_zoo.config_of("mask-fpn"), SIZE)
    blendprune.prune(model, max_flops=0.6, importance="magnitude", rounds=1)
    path = _save(model, tmp_path, "pruned")
    for change in REFUSED.values():
        for classes in ((), (BOX, 3)):
            cfg = small_zoo.config_of("mask-fpn", *change, *classes)
            with pytest.raises(StructError, match="pruned from .* only predictions .* may differ"):
                build_dense(_merged(cfg, "MODEL.FINETUNE", True, "MODEL.WEIGHTS", path), SIZE)


def test_a_dense_file_fine_tunes_on_other_labels_too(overlay, tmp_path, caplog):
    path = _save(build_dense(small_zoo.config_of("retinanet"), SIZE), tmp_path, "dense")
    cfg = small_zoo.config_of("retinanet", "MODEL.RETINANET.NUM_CLASSES", 3)
    cfg.merge_from_list(["MODEL.FINETUNE", True, "MODEL.WEIGHTS", path])
    model = build_dense(cfg, SIZE)
    assert _load(model, path, caplog) == {"head.cls_score"}
    assert model.head.cls_score.out_channels == 9 * 3


def test_load_refuses_a_model_with_other_classes(overlay, tmp_path):
    model = build_dense(small_zoo.config_of("retinanet"), SIZE)
    blendprune.prune(model, max_flops=0.6, importance="magnitude", rounds=1)
    path = _save(model, tmp_path, "pruned")
    other = build_dense(small_zoo.config_of("retinanet", "MODEL.RETINANET.NUM_CLASSES", 3), SIZE)
    with pytest.raises(
        CheckpointError, match="head.cls_score.weight of .* the classes of the file"
    ):
        blendprune.load(path, model=other)


@pytest.fixture
def stripped(overlay, tmp_path):
    """A pruned Mask R-CNN and its file without structure."""
    model = build_dense(small_zoo.config_of("resnext"), SIZE)
    blendprune.prune(model, max_flops=0.5, importance="magnitude", rounds=1)
    path = str(tmp_path / "stripped.pth")
    torch.save(model.state_dict(), path)
    return model, path


def test_a_file_that_lost_its_structure_fine_tunes_by_its_shapes(stripped):
    model, path = stripped
    cfg = small_zoo.config_of("resnext", "MODEL.FINETUNE", True, "MODEL.WEIGHTS", path)
    finetuned = build_dense(cfg, SIZE)
    DetectionCheckpointer(finetuned).load(path)
    _assert_same_weights(finetuned, model)
    modules = blendprune.structure_of(finetuned)["modules"]
    assert modules == blendprune.structure_of(model)["modules"]


def test_a_file_that_lost_its_structure_takes_other_classes(stripped, caplog):
    _, path = stripped
    cfg = small_zoo.config_of("resnext", "MODEL.FINETUNE", True, "MODEL.WEIGHTS", path, BOX, 90)
    finetuned = build_dense(cfg, SIZE)
    assert finetuned.roi_heads.box_predictor.cls_score.out_features == 91
    assert {name.split(".")[-1] for name in _load(finetuned, path, caplog)} == {
        "cls_score",
        "bbox_pred",
    }
    few_regions(finetuned)
    train_one_step(finetuned, training_batch(cfg, SIZE))


def test_a_file_that_lost_its_structure_loads_into_a_given_model(stripped):
    model, path = stripped
    with pytest.raises(StructError, match=r'has no "struct": pass the dense model, load\(path'):
        blendprune.load(path)
    loaded = blendprune.load(path, model=build_dense(small_zoo.config_of("resnext"), SIZE))
    _assert_same_weights(loaded, model)


def test_a_structure_of_other_weights_is_refused_in_any_use(stripped, tmp_path):
    model, _ = stripped
    cfg = small_zoo.config_of("resnext", "MODEL.WEIGHTS", str(tmp_path / "mixed.pth"))
    dense = build_dense(cfg, SIZE)
    file = {"model": model.state_dict(), "struct": blendprune.structure_of(dense)}
    torch.save(file, cfg.MODEL.WEIGHTS)
    for use in (
        lambda: blendprune.load(cfg.MODEL.WEIGHTS),
        lambda: DetectionCheckpointer(dense).load(cfg.MODEL.WEIGHTS),
        lambda: build_dense(_merged(cfg, "MODEL.FINETUNE", True), SIZE),
    ):
        with pytest.raises(StructError, match="not that of the weights beside it .*weight is"):
            use()


class WithState(nn.Sequential):
    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        assert state == {"version": 3}


def test_extra_state_of_any_kind_is_loaded(overlay, tmp_path):
    path = str(tmp_path / "extra.pth")
    made = [WithState(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)) for _ in range(2)]
    torch.save({"model": made[0].state_dict(), "struct": blendprune.structure_of(made[0])}, path)
    loaded = blendprune.load(path, model=made[1])
    assert torch.equal(loaded[0].weight, made[0][0].weight)


def test_weights_of_another_model_are_left_alone_only_where_that_is_asked(overlay):
    model = build_dense(small_zoo.config_of("rpn-fpn"), SIZE)
    before = blendprune.structure_of(model)
    wide = copy.deepcopy(model.state_dict())
    wide["backbone.fpn_lateral2.weight"] = torch.zeros(200, 64, 1, 1)
    for weights, words in ((wide, "do not fit"), (model.backbone.state_dict(), "lack 'backbone")):
        restructure_from(model, {"model": weights}, strict=False)
        with pytest.raises(StructError, match=f'has no "struct", and its weights {words}'):
            restructure_from(model, {"model": weights})
        assert blendprune.structure_of(model) == before


def _merged(cfg, *options):
    cfg.merge_from_list(list(options))
    return cfg


def _save(model, folder, name):
    DetectionCheckpointer(model, str(folder)).save(name)
    return str(folder / f"{name}.pth")


def _load(model, path, caplog):
    """Load a checkpoint; names of the layers that upstream says it skips."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(model).load(path)
    said = [record.getMessage() for record in caplog.records]
    return {x.split("'")[1].rpartition(".")[0] for x in said if "Skip loading parameter" in x}


def _outputs(model):
    return {
        name: getattr(layer, "out_channels", None) or layer.out_features
        for name, layer in model.named_modules()
        if is_prunable_layer(layer)
    }


def _assert_same_weights(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
