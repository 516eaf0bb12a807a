"""The emitted config: upstream's own schedule, nothing frozen, the dense model as the teacher."""

import os

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler

from blendprune.errors import ConfigError
from blendprune.finetune import finetune_config
from blendprune.training import Distillation, hooks_from_config

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


@pytest.mark.parametrize("schedule", [0.5, 0.2])
@pytest.mark.parametrize(("teacher", "rate"), [("dense.pth", 0.02), ("", 0.01)])
def test_detectron2_warms_up_to_the_rate_and_follows_a_cosine_to_nothing(
    blendmask_cfg, schedule, teacher, rate
):
    cfg = blendmask_cfg(*TRAINED, "PRUNER.FINETUNE_SCHEDULE", schedule, "MODEL.WEIGHTS", teacher)
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


def test_only_a_teacher_is_left_of_the_pruner_node(blendmask_cfg, registered, tmp_path):
    teacher = tmp_path / "dense.pth"
    torch.save({"model": build_model(blendmask_cfg()).state_dict()}, teacher)
    assert "PRUNER" not in finetune_config(blendmask_cfg("PRUNER.MAX_FLOPS", 0.5), "pruned")
    untaught = ("PRUNER.FINETUNE_DISTILL", False, "MODEL.WEIGHTS", str(teacher))
    assert "PRUNER" not in finetune_config(blendmask_cfg(*untaught), "pruned")
    taught = finetune_config(blendmask_cfg("MODEL.WEIGHTS", str(teacher)), "pruned")
    assert taught.PRUNER.DISTILLATION.TEACHER == str(teacher)

    named = ("PRUNER.DISTILLATION.TEACHER", os.path.relpath(teacher))
    cfg = blendmask_cfg("PRUNER.MAX_FLOPS", 0.5, *named, "PRUNER.DISTILLATION.HEAD_WEIGHT", 2.0)
    tuned = finetune_config(cfg, "pruned")
    assert list(tuned.PRUNER) == ["DISTILLATION"]
    assert tuned.PRUNER.DISTILLATION.TEACHER == str(teacher)

    (tmp_path / "config.yaml").write_text(tuned.dump())
    loaded = get_cfg()
    loaded.merge_from_file(str(tmp_path / "config.yaml"))
    [hook] = hooks_from_config(loaded)
    assert type(hook) is Distillation and hook.head_weight == 2.0


@pytest.mark.parametrize("schedule", [0.0, -1.0])
def test_a_schedule_of_no_length_is_refused(blendmask_cfg, schedule):
    with pytest.raises(ConfigError, match="FINETUNE_SCHEDULE is .*for example 0.5"):
        finetune_config(blendmask_cfg("PRUNER.FINETUNE_SCHEDULE", schedule), "pruned")
