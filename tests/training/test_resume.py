"""A training that has pruned its model resumes as any other."""

import functools
import os

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, HookBase, defaults, hooks
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils import comm
from torch import nn

from blendprune.errors import CheckpointError, ConfigError
from blendprune.training import GradualPruning
from tests.helpers.processes import in_processes
from tests.helpers.small_net import SmallNet

GRADUAL = ("PRUNER.GRADUAL.START", 1, "PRUNER.GRADUAL.END", 3, "PRUNER.GRADUAL.PERIOD", 1)
GRADUAL += ("PRUNER.PRUNING_RATIO", 0.5, "PRUNER.IMPORTANCE", "magnitude")
TAYLOR = ("PRUNER.IMPORTANCE", "taylor", "PRUNER.CALIBRATION_IMAGES", 4)


class PlainNet(SmallNet):
    """Three convs, and a loss."""

    def __init__(self, cfg):
        super().__init__(
            lambda net, x: net.p(net.norm(net.b(net.a(x).relu())).relu()),
            a=nn.Conv2d(3, 32, 3),
            b=nn.Conv2d(32, 16, 3),
            norm=nn.BatchNorm2d(16),
            p=nn.Conv2d(16, 2, 1),
        )

    def forward(self, batched_inputs):
        output = super().forward(batched_inputs)
        return {"loss": output.square().mean()} if self.training else output


class Trainer(DefaultTrainer):
    """A user's own script, without a word of blendprune."""

    @classmethod
    def build_train_loader(cls, cfg):
        return [[{"image": torch.ones(3, 8, 8)}] * 2] * 100


class AdetTrainer(Trainer):
    """What AdelaiDet's does: its checkpoints have the optimizer, but no state of hooks."""

    def build_hooks(self):
        ret = super().build_hooks()
        for i, hook in enumerate(ret):
            if isinstance(hook, hooks.PeriodicCheckpointer):
                self.checkpointer = DetectionCheckpointer(
                    self.model,
                    self.cfg.OUTPUT_DIR,
                    optimizer=self.optimizer,
                    scheduler=self.scheduler,
                )
                ret[i] = hooks.PeriodicCheckpointer(
                    self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD
                )
        return ret

    def resume_or_load(self, resume=True):
        checkpoint = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = checkpoint.get("iteration", -1) + 1


class Kill(HookBase):
    """Ends the training as a signal does."""

    def before_step(self):
        if self.trainer.iter == 2:
            raise KeyboardInterrupt


@pytest.fixture
def make_cfg(overlay, tmp_path):
    """A function that makes the config of a training of five iterations."""
    META_ARCH_REGISTRY.register(PlainNet)

    def make(*opts, folder="run"):
        cfg = get_cfg()
        cfg.merge_from_list(
            [
                *("MODEL.META_ARCHITECTURE", "PlainNet", "MODEL.DEVICE", "cpu"),
                *("MODEL.WEIGHTS", "", "INPUT.MIN_SIZE_TEST", 8, "DATASETS.TEST", ()),
                *("SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.BASE_LR", 0.1),
                *("SOLVER.WARMUP_ITERS", 0, "OUTPUT_DIR", str(tmp_path / folder), *opts),
            ]
        )
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        return cfg

    yield make
    del META_ARCH_REGISTRY._obj_map["PlainNet"]


def _train(kind, cfg, *more, resume=False):
    torch.manual_seed(0)
    trainer = kind(cfg)
    trainer.register_hooks(more)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def _equal(one, other):
    return all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("kind", [Trainer, AdetTrainer])
@pytest.mark.parametrize(
    "target", [(), ("PRUNER.PRUNING_RATIO", 0.0, "PRUNER.MAX_FLOPS", 0.4)], ids=["ratio", "flops"]
)
def test_a_training_that_resumes_ends_like_one_that_was_not_interrupted(make_cfg, kind, target):
    _check_that_it_resumes(make_cfg, kind, target)


def test_adelaidets_trainer_resumes(make_cfg, adelaidets_trainer):
    _check_that_it_resumes(make_cfg, adelaidets_trainer(Trainer))


def _check_that_it_resumes(make_cfg, kind, target=()):
    whole = _train(kind, make_cfg(*GRADUAL, *target, folder="whole")).model.state_dict()
    cfg = make_cfg(*GRADUAL, *target)
    with pytest.raises(KeyboardInterrupt):
        _train(kind, cfg, Kill())
    resumed = _train(kind, cfg, resume=True).model.state_dict()
    # Momentum, schedule, rounds that are left: weight for weight the same.
    assert _equal(whole, resumed)
    assert resumed["a.weight"].shape[0] < 32


def test_a_hook_that_was_registered_by_hand_resumes_too(make_cfg):
    def gradual():
        return GradualPruning(1, 3, 1, pruning_ratio=0.5, importance="magnitude")

    whole = _train(Trainer, make_cfg(folder="whole"), gradual()).model.state_dict()
    with pytest.raises(KeyboardInterrupt):
        _train(Trainer, make_cfg(), gradual(), Kill())
    assert _equal(whole, _train(Trainer, make_cfg(), gradual(), resume=True).model.state_dict())


def test_the_pruned_model_of_the_training_is_evaluated_with_its_config(make_cfg):
    cfg = make_cfg(*GRADUAL)
    trained = _train(Trainer, cfg).model
    model = build_model(cfg)
    DetectionCheckpointer(model).load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))
    assert model.a.weight.shape[0] < 32
    assert _equal(trained.state_dict(), model.state_dict())


def test_a_training_that_starts_from_weights_pruned_gradually_is_refused(make_cfg):
    _train(Trainer, make_cfg(*GRADUAL))
    weights = os.path.join(make_cfg().OUTPUT_DIR, "model_0000001.pth")
    cfg = make_cfg(*GRADUAL, "MODEL.WEIGHTS", weights, folder="other")
    with pytest.raises(ConfigError, match="pruned gradually already: pass --resume"):
        _train(Trainer, cfg)


class SharedTrainer(Trainer):
    """Each process has images of its own."""

    @classmethod
    def build_train_loader(cls, cfg):
        random = torch.Generator().manual_seed(comm.get_rank())
        return [[{"image": torch.rand(3, 8, 8, generator=random)}] * 2] * 100


def test_two_processes_resume_what_they_pruned(make_cfg, tmp_path, monkeypatch):
    build = functools.partial(defaults.create_ddp_model, device_ids=None)
    monkeypatch.setattr(defaults, "create_ddp_model", build)
    # The last score counts: it reads data.
    whole, halves = (make_cfg(*GRADUAL, *TAYLOR, folder=name) for name in ("whole", "halves"))

    def train():
        with pytest.raises(KeyboardInterrupt):
            _train(SharedTrainer, halves, Kill())
        resumed = _train(SharedTrainer, halves, resume=True)
        found = []
        for trainer in (_train(SharedTrainer, whole), resumed):
            momentum = trainer.optimizer.state_dict()["state"]
            found.append((trainer.model.module.state_dict(), momentum))
        return found

    first, second = in_processes(train, tmp_path / "processes")
    runs = [run for each in (first, second) for run in each]
    for weights, momentum in runs:
        assert len(weights["a.weight"]) < 32
        for key in (key for key in weights if "norm.running" not in key):
            torch.testing.assert_close(weights[key], runs[0][0][key])
        for number, state in momentum.items():
            torch.testing.assert_close(state, runs[0][1][number])
    # Processes are equal to the last bit, but for the statistics of their own images.
    for ours, theirs in zip(first, second):
        assert all(torch.equal(ours[0][f"{x}.weight"], theirs[0][f"{x}.weight"]) for x in "abp")


def test_without_gradual_pruning_a_pruned_checkpoint_is_refused_as_ever(make_cfg):
    _train(Trainer, make_cfg(*GRADUAL))
    with pytest.raises(CheckpointError, match="MODEL.FINETUNE True"):
        _train(Trainer, make_cfg(), resume=True)
