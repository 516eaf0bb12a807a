"""The best model is what is left: the start, a checkpoint, or the last one."""

import copy
import logging
import os

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

import blendprune
from blendprune.pruning import prune
from blendprune.training import KeepBest
from blendprune.training.best import headline


class Scripted(DatasetEvaluator):
    """Gives the next of some numbers as the AP."""

    def __init__(self, aps):
        self.aps = aps

    def evaluate(self):
        return {"bbox": {"AP50": 99.0, "AP": self.aps.pop(0)}}


class Tiny(nn.Module):
    """Trains in no time."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, batch):
        return {"loss": self.layer(batch).square().sum()}


class Trainer(DefaultTrainer):
    """A user's own script: a model, a loader, an evaluator, and no word of blendprune."""

    aps = None

    @classmethod
    def build_model(cls, cfg):
        return Tiny()

    @classmethod
    def build_train_loader(cls, cfg):
        return [torch.ones(1, 2)] * 100

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return []

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        if cls.aps is None:
            raise NotImplementedError
        return Scripted(cls.aps)


class AdetTrainer(Trainer):
    """With the loop of AdelaiDet's trainer: ``iter`` ends one lower."""

    def train(self):
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage:
            self.before_train()
            steps = range(self.start_iter, self.max_iter)
            for self.iter in steps:
                self.before_step()
                self.run_step()
                self.after_step()
            self.after_train()


class Kill(HookBase):
    """Ends the training as a signal does."""

    def __init__(self, at):
        self.at = at

    def before_step(self):
        if self.trainer.iter == self.at:
            raise KeyboardInterrupt


@pytest.fixture
def log():
    """What upstream's logger, which a training script sets up, gets to see."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("detectron2")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield lines
    logger.removeHandler(handler)


SCHEDULE = ("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 2)
SCHEDULE += ("SOLVER.BASE_LR", 1e-3, "DATASETS.TEST", ("some",), "MODEL.DEVICE", "cpu")


@pytest.fixture
def tuned_cfg(overlay, tmp_path):
    """A function that makes the config of a fine-tuning of six iterations."""

    def make(*opts):
        cfg = get_cfg()
        run = ("OUTPUT_DIR", str(tmp_path / "run"), "MODEL.FINETUNE", True)
        weights = ("MODEL.WEIGHTS", str(tmp_path / "start.pth"))
        cfg.merge_from_list([*SCHEDULE, *run, *weights, *opts])
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        torch.save({"model": Tiny().state_dict()}, cfg.MODEL.WEIGHTS)
        return cfg

    return make


def _train(cfg, aps, *more, resume=False, kind=Trainer):
    kind.aps = aps
    trainer = kind(cfg)
    trainer.register_hooks(more)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def _weights(cfg, name):
    return torch.load(os.path.join(cfg.OUTPUT_DIR, name), weights_only=True)["model"]


def _start(cfg):
    return torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]


def _equal(one, other):
    return all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("kind", [Trainer, AdetTrainer])
def test_a_fine_tuning_that_harms_leaves_the_start_as_the_final_model(
    tuned_cfg, log, tmp_path, kind
):
    cfg = tuned_cfg()
    trainer = _train(cfg, [36.5, 34.0, 35.0, 33.2], kind=kind)
    start = _start(cfg)
    assert _equal(start, _weights(cfg, "model_final.pth"))
    assert _equal(trainer.model.state_dict(), _weights(cfg, "model_last.pth"))
    assert not _equal(start, _weights(cfg, "model_last.pth"))
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_last.pth"
    assert trainer._last_eval_results["bbox"]["AP"] == 36.5
    assert (
        "the last model is 3.30 worse than the model at the start (bbox AP: 36.50): "
        "model_final.pth is the best one, model_last.pth the last"
    ) in log


def test_adelaidets_trainer_leaves_the_best_model(tuned_cfg, adelaidets_trainer):
    cfg = tuned_cfg()
    trainer = _train(cfg, [36.5, 34.0, 35.0, 33.2], kind=adelaidets_trainer(Trainer))
    assert _equal(_start(cfg), _weights(cfg, "model_final.pth"))
    last = torch.load(os.path.join(cfg.OUTPUT_DIR, "model_last.pth"), weights_only=False)
    assert "scheduler" in last and _equal(trainer.model.state_dict(), last["model"])


def test_the_best_of_the_checkpoints_is_left(tuned_cfg, log):
    cfg = tuned_cfg()
    _train(cfg, [10.0, 30.0, 40.0, 20.0])
    final = _weights(cfg, "model_final.pth")
    assert _equal(final, _weights(cfg, "model_0000003.pth"))
    assert not _equal(final, _weights(cfg, "model_last.pth"))
    assert any("worse than the model after 4 iterations (bbox AP: 40.00)" in x for x in log)


@pytest.mark.parametrize("aps", [[10.0, 20.0, 30.0, 40.0], [float("nan"), 0.0, 0.0, 1.0]])
def test_a_last_model_that_is_the_best_stays_where_upstream_put_it(tuned_cfg, log, aps):
    cfg = tuned_cfg()
    trainer = _train(cfg, aps)
    assert _equal(trainer.model.state_dict(), _weights(cfg, "model_final.pth"))
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "model_last.pth"))
    assert any("the last model is the best" in line for line in log)


def test_a_training_that_resumes_remembers_what_was_best(tuned_cfg):
    cfg = tuned_cfg()
    with pytest.raises(KeyboardInterrupt):
        _train(cfg, [10.0, 40.0], Kill(at=3))
    # Evaluated again after two iterations, where its checkpoint is from, and after four and six;
    # the start is not.
    _train(cfg, [40.0, 30.0, 20.0], resume=True)
    assert _equal(_weights(cfg, "model_final.pth"), _weights(cfg, "model_0000001.pth"))
    last = _weights(cfg, "model_last.pth")
    # And again, when all is done: upstream evaluates, nothing moves.
    _train(cfg, [20.0], resume=True)
    assert _equal(_weights(cfg, "model_final.pth"), _weights(cfg, "model_0000001.pth"))
    assert _equal(_weights(cfg, "model_last.pth"), last)


def test_a_training_that_stops_in_its_last_iteration_is_not_done(tuned_cfg):
    cfg = tuned_cfg()
    with pytest.raises(KeyboardInterrupt):
        # Upstream's hook evaluates it all the same.
        _train(cfg, [10.0, 40.0, 30.0, 99.0], Kill(at=5))
    path = os.path.join(cfg.OUTPUT_DIR, "model_best.pth")
    assert torch.load(path, weights_only=True)["best"]["value"] == 40.0


def test_a_training_that_is_made_longer_goes_on_from_the_last_state(tuned_cfg):
    _train(tuned_cfg(), [40.0, 1.0, 1.0, 1.0])
    cfg = tuned_cfg("SOLVER.MAX_ITER", 8)
    trainer = _train(cfg, [1.0, 50.0], resume=True)
    assert trainer.start_iter == 6
    assert _equal(trainer.model.state_dict(), _weights(cfg, "model_final.pth"))


def test_a_trainer_without_a_checkpointer_is_told_the_file(overlay, log, tmp_path):
    aps = iter([2.0, 1.0])
    model = Tiny()
    start = copy.deepcopy(model.state_dict())
    (tmp_path / "model_final.pth").write_text("of an earlier run")
    trainer = SimpleTrainer(
        model, [torch.ones(1, 2)] * 9, torch.optim.SGD(model.parameters(), lr=0.1)
    )
    trainer.register_hooks([KeepBest(lambda: {"bbox": {"AP": next(aps)}}, str(tmp_path))])
    trainer.train(0, 2)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)["model"]
    assert _equal(start, best)
    assert any(line.endswith(f"use {tmp_path}/model_best.pth") for line in log)
    assert (tmp_path / "model_final.pth").read_text() == "of an earlier run"


def test_a_training_that_begins_anew_forgets_the_one_before(tuned_cfg):
    cfg = tuned_cfg()
    _train(cfg, [90.0, 1.0, 1.0, 1.0])
    trainer = _train(cfg, [10.0, 20.0, 30.0, 40.0])
    assert _equal(trainer.model.state_dict(), _weights(cfg, "model_final.pth"))


@pytest.mark.parametrize("opts", [("DATASETS.TEST", ()), ()])
def test_without_an_evaluator_one_line_says_that_nothing_is_compared(tuned_cfg, log, opts):
    cfg = tuned_cfg(*opts)
    trainer = _train(cfg, None)
    assert sum("compares nothing" in line for line in log) == 1
    assert _equal(trainer.model.state_dict(), _weights(cfg, "model_final.pth"))
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "model_best.pth"))


class OfImages(Tiny):
    """Its loss falls with its weights."""

    def forward(self, batch):
        return super().forward(torch.stack([each["image"].mean((1, 2))[:2] for each in batch]))


class LossTrainer(Trainer):
    """Evaluates nothing, and gives images."""

    @classmethod
    def build_model(cls, cfg):
        return OfImages()

    @classmethod
    def build_train_loader(cls, cfg):
        return [[{"image": torch.ones(3, 4, 4)}]] * 100


class Ruin(HookBase):
    """Sets all weights to a number after an iteration."""

    def __init__(self, at, value):
        self.at, self.value = at, value

    def after_step(self):
        if self.trainer.iter == self.at:
            for p in self.trainer.model.parameters():
                torch.nn.init.constant_(p, self.value)


@pytest.mark.parametrize(("at", "value"), [(4, 9.0), (5, float("inf"))])
def test_without_an_evaluator_the_loss_on_training_images_decides(tuned_cfg, log, at, value):
    cfg = tuned_cfg("DATASETS.TEST", ())
    trainer = LossTrainer(cfg)
    trainer.register_hooks([Ruin(at, value)])
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert sum("compares models by their loss on training images: the" in x for x in log) == 1
    # Saved every 2 iterations; the fourth was the last good one.
    assert "after 4 iterations (training images: minus the loss: -" in log[-1]
    final = _weights(cfg, "model_final.pth")
    assert _equal(final, _weights(cfg, "model_0000003.pth"))
    assert os.path.exists(os.path.join(cfg.OUTPUT_DIR, "model_last.pth"))


def test_a_resumed_training_goes_on_comparing_losses(tuned_cfg):
    cfg = tuned_cfg("DATASETS.TEST", ())
    trainer = LossTrainer(cfg)
    trainer.register_hooks([Kill(5)])
    trainer.resume_or_load(resume=False)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer = LossTrainer(cfg)
    trainer.register_hooks([Ruin(4, 9.0)])
    trainer.resume_or_load(resume=True)
    trainer.train()
    assert _equal(_weights(cfg, "model_final.pth"), _weights(cfg, "model_0000003.pth"))


def test_a_model_that_nobody_evaluates_at_the_end_is_evaluated(tuned_cfg):
    class NoEvalHook(Trainer):
        def build_hooks(self):
            return [x for x in super().build_hooks() if not isinstance(x, hooks.EvalHook)]

    cfg = tuned_cfg()
    _train(cfg, [20.0, 10.0], kind=NoEvalHook)
    assert NoEvalHook.aps == [] and _equal(_start(cfg), _weights(cfg, "model_final.pth"))


def test_upstreams_own_hook_for_the_best_gets_the_file_to_itself(tuned_cfg):
    cfg = tuned_cfg()
    Trainer.aps = [36.5, 34.0, 35.0, 33.2]
    trainer = Trainer(cfg)
    trainer.register_hooks([hooks.BestCheckpointer(2, trainer.checkpointer, "bbox/AP")])
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert _equal(_start(cfg), _weights(cfg, "model_final.pth"))
    assert _equal(_weights(cfg, "model_best.pth"), _weights(cfg, "model_0000003.pth"))


def test_a_pruned_blendmask_is_left_as_a_file_that_loads(
    registered, blendmask_cfg, training_batch, tmp_path
):
    class BlendMaskTrainer(Trainer):
        build_model = DefaultTrainer.build_model

        @classmethod
        def build_train_loader(cls, cfg):
            return [training_batch()] * 10

    cfg = blendmask_cfg("MODEL.FCOS.NORM", "BN", *SCHEDULE, "SOLVER.MAX_ITER", 1)
    model = build_model(cfg)
    prune(model, max_flops=0.6, importance="magnitude", rounds=1)
    DetectionCheckpointer(model, str(tmp_path)).save("model_pruned")
    cfg.MODEL.FINETUNE, cfg.MODEL.WEIGHTS = True, str(tmp_path / "model_pruned.pth")
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    os.makedirs(cfg.OUTPUT_DIR)
    _train(cfg, [20.0, 10.0], kind=BlendMaskTrainer)
    final = blendprune.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))
    assert _equal(model.state_dict(), final.state_dict())


def test_the_key_switches_it_off(tuned_cfg):
    cfg = tuned_cfg("PRUNER.KEEP_BEST", False)
    trainer = _train(cfg, [34.0, 35.0, 33.2])
    assert _equal(trainer.model.state_dict(), _weights(cfg, "model_final.pth"))
    assert not any(isinstance(hook, KeepBest) for hook in trainer._hooks)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({"bbox": {"AP": 40.0, "AP50": 60.0}, "segm": {"AP": 30.0}}, ("bbox AP and segm AP", 35.0)),
        ({"panoptic_seg": {"PQ": 41.0, "SQ": 78.0}}, ("panoptic_seg PQ", 41.0)),
        ({"sem_seg": {"fwIoU": 60.0, "mIoU": 50.0}}, ("sem_seg mIoU", 50.0)),
        ({"one": {"bbox": {"AP": 10.0}}, "two": {"bbox": {"AP": 20.0}}}, ("bbox AP", 15.0)),
        ({"bbox": {"AP": float("nan")}, "segm": {"AP": 30.0}}, ("bbox AP and segm AP", 15.0)),
        ({"depth": {"val_loss": 3.0, "d1": 0.5, "d2": 0.7}}, ("depth d1", 0.5)),
        ({"AP": 7}, ("AP", 7.0)),
        ({"bbox": {"AP": 40.0}, "seconds": 3.0}, ("bbox AP", 40.0)),
        ({"loss": 3.0}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_model_is_compared_by_its_headline(results, expected):
    assert headline(results) == expected
