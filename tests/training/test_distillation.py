"""Distillation: nothing to learn from oneself, something from the dense model."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from blendprune.errors import ConfigError
from blendprune.pruning import prune
from blendprune.training import Distillation, GradualPruning
from tests.helpers.slow import slow_but
from tests.zoo import load_config

LOSSES = ("loss_distill_features", "loss_distill_heads")
SMALL = ("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18)
SMALL += ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 50)
SMALL += ("MODEL.FPN.OUT_CHANNELS", 64, "MODEL.ROI_MASK_HEAD.CONV_DIM", 64)
SMALL += ("MODEL.RETINANET.NUM_CONVS", 1, "MODEL.RPN.POST_NMS_TOPK_TEST", 20)
SMALL += ("MODEL.ROI_BOX_HEAD.FC_DIM", 64)
SMALL += ("MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.RETINANET.NUM_CLASSES", 3)
SMALL += ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, "INPUT.MASK_FORMAT", "bitmask")
ZOO = {
    "mask-rcnn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "cascade": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "retinanet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
}


@pytest.fixture
def build(blendmask):
    """A function that builds a small model, with norms that are the same in training."""

    def make(name):
        if name == "blendmask":
            norms = ("MODEL.FCOS.NORM", "none", "MODEL.BASIS_MODULE.NORM", "")
            return _fix_norms(blendmask("MODEL.RESNETS.NORM", "FrozenBN", *norms))
        cfg = load_config(ZOO[name])
        cfg.merge_from_list(list(SMALL))
        return build_model(cfg)

    return make


def _fix_norms(model):
    from detectron2.layers import FrozenBatchNorm2d

    return FrozenBatchNorm2d.convert_frozen_batchnorm(model)


def _losses(model, batch):
    with EventStorage():
        return model.train()(batch)


def _listening(model, teacher, trainer_of, **options):
    hook = Distillation(teacher, **options)
    trainer = trainer_of(model, hook)
    hook.before_train()
    hook.before_step()
    return hook, trainer


@pytest.mark.parametrize("name", ["blendmask", *ZOO])
def test_the_losses_are_zero_when_the_student_is_the_teacher(
    build, trainer_of, training_batch, name
):
    model = build(name)
    hook, _trainer = _listening(model, copy.deepcopy(model), trainer_of)
    losses = _losses(model, training_batch())
    assert losses["loss_distill_heads"].item() == pytest.approx(0, abs=1e-6)
    assert losses["loss_distill_features"].item() == pytest.approx(0, abs=1e-3)
    hook.after_train()
    assert not set(LOSSES) & set(_losses(model, training_batch()))


@pytest.mark.parametrize("name", slow_but(["blendmask", "mask-rcnn", "retinanet"], "blendmask"))
def test_a_pruned_student_learns_from_its_teacher(build, trainer_of, training_batch, name):
    model = build(name)
    teacher = copy.deepcopy(model)
    weights = [p.clone() for p in teacher.parameters()]
    prune(model, training_batch(1), max_flops=0.6, importance="magnitude", rounds=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    # Heavy enough to outweigh what the labels say, which the teacher has not learnt either.
    hook = Distillation(teacher, feature_weight=1e4, head_weight=1e2)
    trainer = trainer_of(model, hook, optimizer=optimizer)
    trainer.train(0, 10)
    for loss in LOSSES:
        values = [value for value, _ in trainer.storage.history(loss).values()]
        assert len(values) == 10 and values[0] > 1
        assert min(values[-3:]) < 0.95 * values[0]
    assert all(torch.equal(p, w) for p, w in zip(teacher.parameters(), weights))
    assert not any("teacher" in key for key in model.state_dict())


def test_a_student_that_is_cut_meanwhile_goes_on_learning(build, trainer_of, training_batch):
    model = build("retinanet")
    teacher, runs = copy.deepcopy(model), []
    teacher.head.bbox_pred.register_forward_hook(lambda module, inputs, output: runs.append(1))
    cuts = GradualPruning(1, 2, 1, max_flops=0.7, importance="taylor", images=2)
    trainer = trainer_of(model, Distillation(teacher), cuts, lr=1e-4)
    trainer.train(0, 4)
    flops = cuts.report().flops
    assert flops["after"] <= 0.7 * flops["before"]
    for loss in LOSSES:
        values = [value for value, _ in trainer.storage.history(loss).values()]
        assert len(values) == 4 and all(0 < value < 20 for value in values[1:])
    # Five levels in each step, and once more to see where it ends: scores are the student's own.
    assert len(runs) == 5 * 4 + 5


HEADS = {
    "blendmask": {
        "proposal_generator.fcos_head.cls_logits",
        "proposal_generator.fcos_head.bbox_pred",
        "proposal_generator.fcos_head.ctrness",
        "top_layer",
    },
    "retinanet": {"head.cls_score", "head.bbox_pred"},
    "mask-rcnn": {
        "proposal_generator.rpn_head.objectness_logits",
        "proposal_generator.rpn_head.anchor_deltas",
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_head.predictor",
    },
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_compared(build, trainer_of, training_batch, name):
    model = build(name)
    hook, _trainer = _listening(model, copy.deepcopy(model), trainer_of)
    _losses(model, training_batch())
    heads = {head for head in hook._heads if not head.startswith("basis_module.")}
    assert heads == HEADS[name]
    # The bases, and the auxiliary head that training alone runs.
    assert len(hook._heads) - len(heads) == (2 if name == "blendmask" else 0)


def test_heads_that_cannot_be_compared_count_as_equal(build, trainer_of, training_batch):
    model = build("retinanet")
    hook, trainer = _listening(model, copy.deepcopy(model), trainer_of)
    _losses(model, training_batch())
    hook._heads = []
    losses = _losses(model, training_batch())
    assert losses[LOSSES[1]] == 0
    sum(losses.values()).backward()


def test_the_head_loss_is_the_squared_difference_over_the_teachers_variance(
    build, trainer_of, training_batch
):
    model = build("retinanet")
    teacher, deltas = copy.deepcopy(model), []
    with torch.no_grad():
        for each in (model, teacher):
            each.head.bbox_pred.weight *= 100
        model.head.bbox_pred.bias += 0.5
    _hook, _trainer = _listening(model, teacher, trainer_of, feature_weight=0.0, head_weight=3.0)
    _losses(model, training_batch())  # the first one also looks for the heads
    teacher.head.bbox_pred.register_forward_hook(lambda m, i, out: deltas.append(out))
    losses = _losses(model, training_batch())
    assert len(deltas) == 5 and LOSSES[0] not in losses
    variance = torch.cat([x.flatten() for x in deltas]).var(unbiased=False)
    assert variance > 1e-2
    # The other one of the two heads agrees.
    expected = 3 * 0.25 / variance / 2
    assert losses[LOSSES[1]].item() == pytest.approx(expected.item(), rel=1e-3)


def test_evaluation_is_left_alone(build, trainer_of, training_batch):
    model = build("retinanet")
    _hook, _trainer = _listening(model, copy.deepcopy(model), trainer_of)
    with torch.no_grad():
        found = model.eval()([{"image": x["image"]} for x in training_batch()])
    assert all("instances" in each for each in found)


def test_a_teacher_of_another_model_is_refused(build, trainer_of, training_batch):
    model = build("retinanet")
    _hook, _trainer = _listening(model, build("mask-rcnn"), trainer_of)
    with pytest.raises(ConfigError, match="give the dense model that it was pruned from"):
        _losses(model, training_batch())
    with pytest.raises(ConfigError, match="weights of at least 0"):
        Distillation(model, feature_weight=0.0, head_weight=0.0)
