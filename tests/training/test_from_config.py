"""Hooks from the config: off by default, and on in a training script that knows nothing of them."""

import os

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model

import blendprune
from blendprune.checkpoint import read_struct
from blendprune.errors import CheckpointError, ConfigError
from blendprune.training import (
    Distillation,
    FixedStatistics,
    GradualPruning,
    GroupSparsity,
    KeepBest,
    hooks_from_config,
)
from blendprune.training.exact_resume import ExactResume


@pytest.fixture
def dense(registered, blendmask_cfg, tmp_path):
    """A dense checkpoint's path."""
    DetectionCheckpointer(build_model(blendmask_cfg()), str(tmp_path)).save("dense")
    return str(tmp_path / "dense.pth")


class Trainer(DefaultTrainer):
    """What a user's own script has: a loader, and no word of blendprune."""

    batch = None

    @classmethod
    def build_train_loader(cls, cfg):
        return [cls.batch] * 100


@pytest.fixture
def train(registered, blendmask_cfg, training_batch, tmp_path):
    def run(*opts):
        folder = str(tmp_path / "run")
        cfg = blendmask_cfg("SOLVER.MAX_ITER", 4, "OUTPUT_DIR", folder, "DATASETS.TEST", (), *opts)
        os.makedirs(folder, exist_ok=True)
        Trainer.batch = training_batch()
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        return trainer

    return run


def test_nothing_is_on_by_default(blendmask_cfg):
    assert hooks_from_config(blendmask_cfg()) == []
    assert hooks_from_config(get_cfg()) == []


def test_each_key_switches_on_its_hook(blendmask_cfg, dense):
    cfg = blendmask_cfg(
        *("PRUNER.SPARSITY.STRENGTH", 0.1),
        *("PRUNER.GRADUAL.END", 100, "PRUNER.MAX_FLOPS", 0.5),
        *("PRUNER.DISTILLATION.TEACHER", dense),
    )
    kinds = [type(hook) for hook in hooks_from_config(cfg)]
    assert kinds == [ExactResume, GroupSparsity, GradualPruning, Distillation]


def test_gradual_pruning_takes_a_limit_of_memory(blendmask_cfg):
    opts = ("PRUNER.GRADUAL.END", 100, "PRUNER.MAX_MEMORY", 200.0)
    _, hook = hooks_from_config(blendmask_cfg(*opts))
    assert str(hook.target) == "max_memory 200 MB"


def test_the_best_is_kept_while_fine_tuning_alone(blendmask_cfg):
    tuning = ("MODEL.FINETUNE", True)
    kinds = [type(hook) for hook in hooks_from_config(blendmask_cfg(*tuning))]
    assert kinds == [ExactResume, FixedStatistics, KeepBest]
    off = ("PRUNER.KEEP_BEST", False, "PRUNER.FIXED_STATISTICS", False)
    [alone] = hooks_from_config(blendmask_cfg(*tuning, *off))
    assert isinstance(alone, ExactResume)
    # The start would be a model that is not sparse.
    sparse = hooks_from_config(blendmask_cfg(*tuning, "PRUNER.SPARSITY.STRENGTH", 0.1))
    assert [type(hook) for hook in sparse] == [ExactResume, GroupSparsity]


def test_an_unmodified_trainer_prunes_while_it_trains(train, tmp_path):
    trainer = train(
        *("PRUNER.GRADUAL.END", 3, "PRUNER.GRADUAL.PERIOD", 1, "PRUNER.MAX_PARAMS", 0.6),
        *("PRUNER.IMPORTANCE", "magnitude"),
    )
    path = str(tmp_path / "run" / "model_final.pth")
    sizes = [p.numel() for p in blendprune.load(path).parameters()]
    assert sizes == [p.numel() for p in trainer.model.parameters()]
    struct = read_struct(path)
    assert struct["size"] < 0.61 * struct["dense_size"]


def test_an_unmodified_trainer_distils(train, dense):
    trainer = train("PRUNER.DISTILLATION.TEACHER", dense, "MODEL.WEIGHTS", dense)
    for name in ("loss_distill_heads", "loss_distill_features"):
        assert trainer.storage.history(name).latest() > 0


@pytest.mark.parametrize("has_struct", [True, False])
def test_a_teacher_of_other_classes_teaches_what_both_predict(train, dense, caplog, has_struct):
    if not has_struct:
        torch.save({"model": torch.load(dense)["model"]}, dense)
    with caplog.at_level("WARNING"):
        trainer = train(
            *("PRUNER.DISTILLATION.TEACHER", dense, "MODEL.FCOS.NUM_CLASSES", 7),
            *("MODEL.BASIS_MODULE.NUM_CLASSES", 7, "SOLVER.MAX_ITER", 2),
        )
    (hook,) = (hook for hook in trainer._hooks if isinstance(hook, Distillation))
    assert hook.teacher.proposal_generator.fcos_head.cls_logits.out_channels == 3
    state = hook.teacher.state_dict()
    assert all(torch.equal(state[key], x) for key, x in torch.load(dense)["model"].items())
    said = [r.getMessage() for r in caplog.records if "distillation leaves out" in r.getMessage()]
    assert len(said) == 1 and "cls_logits" in said[0] and "bbox_pred" not in said[0]
    for name in ("loss_distill_heads", "loss_distill_features"):
        assert trainer.storage.history(name).latest() > 0


def test_a_config_that_cannot_hold_is_refused_before_training(blendmask_cfg, registered, tmp_path):
    with pytest.raises(ConfigError, match="none of PRUNER.PRUNING_RATIO"):
        hooks_from_config(blendmask_cfg("PRUNER.GRADUAL.END", 10))
    missing = str(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"none\.pth.*to fine-tune without a teacher"):
        hooks_from_config(blendmask_cfg("PRUNER.DISTILLATION.TEACHER", missing))
