"""Hooks of the config in training loops that have no trainer."""

import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

from blendprune.training import attach

GRADUAL = ("PRUNER.GRADUAL.END", 2, "PRUNER.GRADUAL.PERIOD", 1, "PRUNER.MAX_PARAMS", 0.7)
GRADUAL += ("PRUNER.IMPORTANCE", "magnitude", "SOLVER.MAX_ITER", 3)


@pytest.fixture
def said():
    """The log, whatever other tests have set up."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("detectron2.blendprune")
    log.addHandler(handler)
    level, log.level = log.level, logging.INFO
    yield lines
    log.removeHandler(handler)
    log.level = level


@pytest.fixture
def loop(registered, blendmask_cfg, training_batch):
    """A function that trains as detectron2's tools/plain_train_net.py does."""

    def run(*opts, own=False, explicit=False):
        import detectron2.data as upstream  # by name: the overlay patches the module

        cfg, batch = blendmask_cfg(*opts), training_batch()
        model = build_model(cfg)
        if own:
            optimizer = torch.optim.SGD(model.parameters(), 1e-4)
        else:
            optimizer = build_optimizer(cfg, model)
        loader = [batch] * 9
        if not (own or explicit):
            loader = upstream.build_detection_train_loader(
                batch, mapper=None, total_batch_size=2, aspect_ratio_grouping=False
            )
        if explicit:
            attach(cfg, model, optimizer, loader)
        dense = sum(p.numel() for p in model.parameters())
        with EventStorage() as events:
            for data, events.iter in zip(loader, range(cfg.SOLVER.MAX_ITER)):
                losses = model(data)
                optimizer.zero_grad()
                sum(losses.values()).backward()
                optimizer.step()
        return sum(p.numel() for p in model.parameters()) / dense, losses

    return run


@pytest.mark.parametrize("clip", [False, True])
def test_a_loop_prunes_gradually_because_its_config_says_so(loop, said, clip):
    kept, _ = loop(*GRADUAL, "SOLVER.CLIP_GRADIENTS.ENABLED", clip)
    assert 0.68 < kept <= 0.7
    assert "hooks of the config in this training loop: ExactResume, GradualPruning" in said
    assert sum("pruned to" in line for line in said) == 2


def test_a_loop_of_its_own_is_told_the_line_to_add_once(loop, said):
    kept, _ = loop(*GRADUAL, own=True)
    assert kept == 1
    [line] = [line for line in said if "attach" in line]
    assert line.startswith("nothing in this training loop reads PRUNER.GRADUAL.END: add blendprune")


def test_a_trainer_that_never_runs_its_hooks_is_a_loop_too(
    registered, blendmask_cfg, training_batch, tmp_path
):
    import detectron2.data as upstream

    class Trainer(DefaultTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            return upstream.build_detection_train_loader(
                training_batch(), mapper=None, total_batch_size=2, aspect_ratio_grouping=False
            )

        def train(self):
            self.model.train()
            with EventStorage() as events:
                for data, events.iter in zip(self.data_loader, range(self.max_iter)):
                    self.optimizer.zero_grad()
                    sum(self.model(data).values()).backward()
                    self.optimizer.step()

    trainer = Trainer(blendmask_cfg(*GRADUAL, "OUTPUT_DIR", str(tmp_path), "DATASETS.TEST", ()))
    dense = sum(p.numel() for p in trainer.model.parameters())
    trainer.train()
    assert sum(p.numel() for p in trainer.model.parameters()) <= 0.7 * dense


@pytest.mark.slow
def test_a_compiled_model_takes_part(registered, blendmask_cfg, training_batch):
    cfg = blendmask_cfg(*GRADUAL)
    model = build_model(cfg)
    dense = sum(p.numel() for p in model.parameters())
    optimizer, batch = build_optimizer(cfg, model), training_batch()
    attach(cfg, model, optimizer, [batch] * 9)
    compiled = torch.compile(model, backend="eager")
    with EventStorage() as events:
        for events.iter in range(cfg.SOLVER.MAX_ITER):
            optimizer.zero_grad()
            sum(compiled(batch).values()).backward()
            optimizer.step()
    assert sum(p.numel() for p in model.parameters()) <= 0.7 * dense


def test_the_line_makes_such_a_loop_prune(loop):
    kept, _ = loop(*GRADUAL, own=True, explicit=True)
    assert 0.68 < kept <= 0.7


def test_a_teacher_teaches_from_the_first_step(loop, blendmask_cfg, tmp_path):
    DetectionCheckpointer(build_model(blendmask_cfg()), str(tmp_path)).save("dense")
    teacher = ("PRUNER.DISTILLATION.TEACHER", str(tmp_path / "dense.pth"))
    _, losses = loop(*teacher, "SOLVER.MAX_ITER", 1)
    assert {"loss_distill_features", "loss_distill_heads"} <= losses.keys()


def test_a_config_that_asks_for_nothing_is_left_alone(loop, said):
    kept, losses = loop("SOLVER.MAX_ITER", 1)
    assert kept == 1 and not said and not any("distill" in name for name in losses)
