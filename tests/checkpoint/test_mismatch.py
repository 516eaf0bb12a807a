"""Pruned or not follows from shapes: what is refused, and what is left to upstream."""

import copy

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.modeling import build_model
from torch import nn

import blendprune
from blendprune.checkpoint.mismatch import refuse_other_widths
from blendprune.errors import CheckpointError, StructError
from tests.helpers.small_lazy import fcos


class Detector(nn.Module):
    """A trunk, its norm, and a head; ``inner`` is what pruning changes."""

    def __init__(self, inner=8, classes=10, inputs=3):
        super().__init__()
        self.stem = nn.Conv2d(inputs, inner, 1)
        self.norm = nn.BatchNorm2d(inner)
        self.up = nn.ConvTranspose2d(inner, inner, 2)
        self.fc = nn.Linear(inner, inner)
        self.head = nn.Linear(inner, classes)
        self.register_buffer("class_weights", torch.ones(classes))


def _pruned(classes=10):
    model = Detector(8, classes)
    blendprune.restructure(model, blendprune.structure_of(Detector(4, classes)))
    return model


def _file(model, **struct):
    """What is saved of a model; the tail changes its structure."""
    saved = {"model": model.state_dict(), "struct": blendprune.structure_of(model)}
    saved["struct"].update(struct)
    return saved


def _stripped(file):
    return {"model": file["model"]}


def _earlier(file):
    """As an earlier version wrote it, of a model that no config built."""
    struct = {k: v for k, v in file["struct"].items() if k not in ("dense", "prediction_layers")}
    return {"model": file["model"], "struct": {**struct, "dense_size": struct["size"]}}


PRUNED = _file(_pruned())
REFUSED = {
    "pruned in dense": (PRUNED, Detector()),
    "of an earlier version": (_earlier(PRUNED), Detector()),
    "without structure": (_stripped(PRUNED), Detector()),
    "pruned, of other classes": (_file(_pruned(classes=7)), Detector()),
    "in another width": (PRUNED, Detector(6)),
}


def test_a_structure_that_is_not_of_the_weights_beside_it_is_refused():
    file = {**PRUNED, "model": {**Detector().state_dict(), "fc.weight": torch.zeros(8, 4)}}
    with pytest.raises(StructError, match="not that of the weights beside it .stem.weight is"):
        refuse_other_widths(file, Detector())


@pytest.mark.parametrize("name", REFUSED)
def test_a_pruned_file_in_a_model_of_other_widths_is_refused(name):
    file, model = REFUSED[name]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match="set MODEL.FINETUNE True and MODEL.WEIGHTS to this"):
        refuse_other_widths(file, model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


LEFT_TO_UPSTREAM = {
    "the same": (_file(Detector()), Detector()),
    "other classes": (_file(Detector(8, 3)), Detector()),
    "more classes": (_file(Detector(8, 30)), Detector()),
    "other classes, without structure": (_stripped(_file(Detector(8, 3))), Detector()),
    "other images": (_stripped(_file(Detector(8, 10, 1))), Detector()),
    "a dense file of a config": (_file(Detector(4), config="MODEL: {}"), Detector()),
    "a wider one": (_file(Detector(16)), Detector()),
    "other names": ({"model": {"a.weight": torch.zeros(3)}}, Detector()),
    "one narrow layer, without structure": (
        {"model": {**Detector().state_dict(), "fc.weight": torch.zeros(8, 4)}},
        Detector(),
    ),
    "names of another tool": ({"model": {}, "matching_heuristics": True}, Detector()),
}


@pytest.mark.parametrize("name", LEFT_TO_UPSTREAM)
def test_what_upstream_does_right_is_left_to_it(name):
    refuse_other_widths(*LEFT_TO_UPSTREAM[name])


@pytest.fixture
def pruned_model():
    return _pruned()


def test_a_pruned_model_takes_its_own_weights_with_or_without_structure(pruned_model):
    for file in (PRUNED, _earlier(PRUNED), _stripped(PRUNED)):
        refuse_other_widths(file, pruned_model)
        refuse_other_widths({**file, "matching_heuristics": True}, pruned_model)


@pytest.mark.parametrize("strip", [lambda file: file, _stripped])
def test_a_dense_file_in_a_pruned_model_is_refused(pruned_model, strip):
    with pytest.raises(CheckpointError, match="the model is pruned .* the checkpoint is dense"):
        refuse_other_widths(strip(_file(Detector())), pruned_model)


def test_the_backbone_of_another_tool_in_a_pruned_model_is_refused(pruned_model):
    with pytest.raises(CheckpointError, match="the model is pruned, but the weights .* dense one"):
        refuse_other_widths({"model": {}, "matching_heuristics": True}, pruned_model)


def test_a_model_of_a_lazy_config_knows_that_it_was_pruned(overlay, tmp_path):
    config = fcos().model
    model = instantiate(config)
    inputs = [{"image": torch.zeros(3, 64, 64)}]
    blendprune.prune(model, inputs, max_flops=0.8, importance="magnitude", rounds=1)
    DetectionCheckpointer(model, str(tmp_path)).save("pruned")
    path = str(tmp_path / "pruned.pth")
    struct = torch.load(path, weights_only=True)["struct"]
    dense = instantiate(config)
    assert struct["dense_size"] == blendprune.structure_of(dense)["size"] > struct["size"]
    before = copy.deepcopy(dense.state_dict())
    with pytest.raises(CheckpointError, match="M of .* M values.* set MODEL.FINETUNE True"):
        DetectionCheckpointer(dense).load(path)
    assert all(torch.equal(before[key], value) for key, value in dense.state_dict().items())
    with pytest.raises(CheckpointError, match="the model is pruned"):
        DetectionCheckpointer(dense, str(tmp_path)).save("dense")
        DetectionCheckpointer(model).load(str(tmp_path / "dense.pth"))
    DetectionCheckpointer(blendprune.load(path, model=dense)).load(path)


def test_a_training_is_not_resumed_from_another_pruned_model(
    registered, small_blendmasks, blendmask_cfg, tmp_path
):
    for name, ratio in (("one", 0.2), ("other", 0.5)):
        model = small_blendmasks()
        registered.prune(model, pruning_ratio=ratio, importance="magnitude", rounds=1)
        DetectionCheckpointer(model, str(tmp_path)).save(name, iteration=3)
    # What was saved last is what a training resumes from.
    cfg = blendmask_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", str(tmp_path / "one.pth"))
    model = build_model(cfg)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match="of another pruned model .* without --resume"):
        DetectionCheckpointer(model, str(tmp_path)).resume_or_load(cfg.MODEL.WEIGHTS, resume=True)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
