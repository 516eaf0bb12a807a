"""The emitted config: upstream's own schedule, nothing frozen, the best model kept."""

import os

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler

from blendprune.errors import ConfigError
from blendprune.pipeline.finetune import finetune_config
from blendprune.training import Distillation, FixedStatistics, KeepBest, hooks_from_config

TRAINED = ("SOLVER.BASE_LR", 0.02, "SOLVER.MAX_ITER", 1000, "SOLVER.STEPS", (600, 800))


def _rates(cfg):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "distill", "rate"),
    [
        (0.2, True, 0.02),
        (0.5, True, 0.02),
        # Half of the dense rate; less for less than half of the iterations.
        (0.05, False, 0.001),
        (0.2, False, 0.004),
        (0.5, False, 0.01),
        (0.8, False, 0.01),
    ],
)
def test_detectron2_warms_up_to_the_rate_and_follows_a_cosine_to_nothing(
    blendmask_cfg, schedule, distill, rate
):
    teacher = ("PRUNER.FINETUNE_DISTILL", distill, "MODEL.WEIGHTS", "dense.pth")
    cfg = blendmask_cfg(*TRAINED, "PRUNER.FINETUNE_SCHEDULE", schedule, *teacher)
    tuned = finetune_config(cfg, "pruned")
    rates = _rates(tuned)
    assert len(rates) == 1000 * schedule
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(rate, rel=0.05)
    assert peak == pytest.approx(0.1 * len(rates), abs=2)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] < 1e-4 and rates[-1] < 1e-4
    assert tuned.SOLVER.STEPS == (600 * schedule, 800 * schedule)
    assert cfg.SOLVER.BASE_LR == 0.02 and cfg.SOLVER.MAX_ITER == 1000


def test_nothing_of_the_fine_tuned_model_is_frozen(blendmask_cfg, registered):
    frozen = ("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BACKBONE.FREEZE_AT", 2)
    cfg = blendmask_cfg(*frozen)
    assert not all(p.requires_grad for p in build_model(cfg).parameters())
    tuned = finetune_config(cfg, "pruned")
    tuned.MODEL.FINETUNE = False  # there is no file here
    model = build_model(tuned)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(type(m).__name__ == "FrozenBatchNorm2d" for m in model.modules())


RECIPE = ["KEEP_BEST", "FIXED_STATISTICS", "FINETUNE_SCHEDULE", "DENSE_TRAINING"]


def test_there_is_a_teacher_only_where_one_is_asked_for(blendmask_cfg, registered, tmp_path):
    teacher = tmp_path / "dense.pth"
    torch.save({"model": build_model(blendmask_cfg()).state_dict()}, teacher)
    weights = ("MODEL.WEIGHTS", str(teacher), "PRUNER.MAX_FLOPS", 0.5)
    assert list(finetune_config(blendmask_cfg(*weights), "pruned").PRUNER) == RECIPE
    taught = finetune_config(blendmask_cfg(*weights, "PRUNER.FINETUNE_DISTILL", True), "pruned")
    assert taught.PRUNER.DISTILLATION.TEACHER == str(teacher)

    named = ("PRUNER.DISTILLATION.TEACHER", os.path.relpath(teacher))
    cfg = blendmask_cfg("PRUNER.MAX_FLOPS", 0.5, *named, "PRUNER.DISTILLATION.HEAD_WEIGHT", 2.0)
    tuned = finetune_config(cfg, "pruned")
    assert list(tuned.PRUNER) == [*RECIPE, "DISTILLATION"]
    assert tuned.PRUNER.DISTILLATION.TEACHER == str(teacher)

    (tmp_path / "config.yaml").write_text(tuned.dump())
    loaded = get_cfg()
    loaded.merge_from_file(str(tmp_path / "config.yaml"))
    _, distillation, fixed, best = hooks_from_config(loaded)
    assert type(distillation) is Distillation and distillation.head_weight == 2.0
    assert (type(fixed), type(best)) == (FixedStatistics, KeepBest)


@pytest.mark.parametrize(
    ("evaluated", "saved", "expected"),
    [(0, 5000, (125, 125)), (1000, 5000, (125, 125)), (100, 50, (100, 50))],
)
def test_the_fine_tuning_is_evaluated_and_saved_a_few_times(
    blendmask_cfg, evaluated, saved, expected
):
    periods = ("TEST.EVAL_PERIOD", evaluated, "SOLVER.CHECKPOINT_PERIOD", saved)
    cfg = blendmask_cfg(*TRAINED, *periods)
    tuned = finetune_config(cfg, "pruned")
    assert (tuned.TEST.EVAL_PERIOD, tuned.SOLVER.CHECKPOINT_PERIOD) == expected
    cfg.PRUNER.KEEP_BEST = False
    tuned = finetune_config(cfg, "pruned")
    assert (tuned.TEST.EVAL_PERIOD, tuned.SOLVER.CHECKPOINT_PERIOD) == (evaluated, saved)


def test_a_model_that_is_pruned_again_gets_the_schedule_of_the_first_time(blendmask_cfg, tmp_path):
    written = ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "PRUNER.FINETUNE_SCHEDULE", 0.2)
    once = finetune_config(blendmask_cfg(*TRAINED, *written), "pruned")
    (tmp_path / "config.yaml").write_text(once.dump())
    cfg = blendmask_cfg()
    cfg.merge_from_file(str(tmp_path / "config.yaml"))
    assert cfg.PRUNER.DENSE_TRAINING.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR"
    again = finetune_config(cfg, "again")
    assert again.SOLVER == once.SOLVER and again.TEST == once.TEST
    assert again.SOLVER.MAX_ITER == 200 and again.SOLVER.BASE_LR == 0.2 * 0.02
    assert again.PRUNER.dump() == once.PRUNER.dump()
    cfg.PRUNER.FINETUNE_SCHEDULE = 1.0
    assert finetune_config(cfg, "again").SOLVER.MAX_ITER == 1000


def test_a_record_of_the_dense_training_that_lacks_a_key_is_refused(blendmask_cfg):
    cfg = blendmask_cfg()
    cfg.PRUNER.DENSE_TRAINING.SOLVER = CfgNode({"MAX_ITER": 5})
    with pytest.raises(ConfigError, match="DENSE_TRAINING lacks SOLVER.BASE_LR"):
        finetune_config(cfg, "pruned")


@pytest.mark.parametrize("schedule", [0.0, -1.0])
def test_a_schedule_of_no_length_is_refused(blendmask_cfg, schedule):
    with pytest.raises(ConfigError, match="FINETUNE_SCHEDULE is .*for example 0.5"):
        finetune_config(blendmask_cfg("PRUNER.FINETUNE_SCHEDULE", schedule), "pruned")
