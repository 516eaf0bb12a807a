"""A training that was interrupted ends as the one that was not, bit for bit."""

import os
import random

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.utils.env import seed_all_rng

from blendprune.checkpoint import read_checkpoint
from blendprune.training import ExactResume
from tests.helpers.digit_scenes import digit_scenes
from tests.helpers.slow import slow_but
from tests.helpers.small_zoo import SMALL, TINY, config_of

ITERATIONS = 6


@pytest.fixture(scope="module", autouse=True)
def scenes(tmp_path_factory):
    with digit_scenes(tmp_path_factory.mktemp("scenes"), num_train=8):
        yield


class Trainer(DefaultTrainer):
    """A user's, without a word of blendprune; it compares models by a number that it makes up."""

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        return {"bbox": {"AP": float(next(model.parameters()).sum())}}


class LikeAdet(Trainer):
    """Its checkpoints have no state of the hooks, as AdelaiDet's."""

    def __init__(self, cfg):
        super().__init__(cfg)
        del self.checkpointer.checkpointables["trainer"]
        self.checkpointer.add_checkpointable("optimizer", self.optimizer)
        self.checkpointer.add_checkpointable("scheduler", self.scheduler)

    def resume_or_load(self, resume=True):
        checkpoint = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = checkpoint["iteration"] + 1


class Stop(HookBase):
    """Ends the training as a signal does."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            raise KeyboardInterrupt


@pytest.fixture
def train(tmp_path):
    """A function that trains by a config, stopped and resumed, and returns its last checkpoints."""

    def run(cfg, *stops, kind=Trainer, seed=0):
        cfg = cfg.clone()
        cfg.OUTPUT_DIR = str(tmp_path / "-".join(["run", *map(str, stops)]))
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        for number, stop in enumerate((*stops, None)):
            # Another process has other random states.
            seed_all_rng(seed + number)
            trainer = kind(cfg)
            trainer.register_hooks([Stop(stop)])
            trainer.resume_or_load(resume=number > 0)
            try:
                trainer.train()
            except KeyboardInterrupt:
                assert trainer.iter == stop
        names = ("model_final.pth", f"model_{ITERATIONS - 1:07d}.pth")
        paths = [os.path.join(cfg.OUTPUT_DIR, name) for name in names]
        # The best model is the final one: it says nothing of the training's state.
        final, last = (torch.load(path, weights_only=False) for path in paths)
        return {**last, "final": final}

    return run


def _differences(one, other, path=""):
    """Names of what is not exactly the same, apart from folders."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            if key in one and key in other:
                yield from _differences(one[key], other[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(one, (list, tuple)) and len(one) == len(other):
        for i, pair in enumerate(zip(one, other)):
            yield from _differences(*pair, f"{path}.{i}")
    elif isinstance(one, torch.Tensor):
        if not torch.equal(one, other):
            yield path
    elif one != other and not path.endswith(".config"):
        yield path


TRAINING = ("DATASETS.TRAIN", ("digits_train",), "DATASETS.TEST", (), "MODEL.FCOS.NUM_CLASSES", 10)
TRAINING += ("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.BASE_LR", 0.002)
TRAINING += ("SOLVER.WARMUP_ITERS", 3, "SOLVER.IMS_PER_BATCH", 2, "INPUT.MASK_FORMAT", "bitmask")
TRAINING += ("INPUT.MIN_SIZE_TRAIN", (48, 64), "DATALOADER.NUM_WORKERS", 0)
TRAINING += ("MODEL.BASIS_MODULE.LOSS_ON", False)
TUNING = ("MODEL.FINETUNE", True, "MODEL.WEIGHTS", "PRUNED")
CASES = {
    "finetune": TUNING,
    "workers": (*TUNING, "DATALOADER.NUM_WORKERS", 2),
    "distillation": (*TUNING, "PRUNER.DISTILLATION.TEACHER", "DENSE"),
    "best": (*TUNING, "DATASETS.TEST", ("digits_test",), "TEST.EVAL_PERIOD", 2),
    "by batch": (*TUNING, "PRUNER.FIXED_STATISTICS", False)
    + ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2, "TEST.EVAL_PERIOD", 2),
    "sparsity": ("PRUNER.SPARSITY.STRENGTH", 0.5, "PRUNER.SPARSITY.PERIOD", 4),
    "gradual": ("PRUNER.GRADUAL.START", 1, "PRUNER.GRADUAL.END", 5, "PRUNER.GRADUAL.PERIOD", 2)
    + ("PRUNER.MAX_FLOPS", 0.6, "PRUNER.CALIBRATION_IMAGES", 2),
}


@pytest.fixture
def case(registered, blendmask_cfg, small_blendmasks, tmp_path):
    """A function that makes the config of a case, and the files that it names."""
    from detectron2.checkpoint import DetectionCheckpointer

    def make(name):
        dense = small_blendmasks(*TRAINING[4:6])
        DetectionCheckpointer(dense, str(tmp_path)).save("dense")
        registered.prune(dense, max_flops=0.6, importance="magnitude", rounds=1)
        DetectionCheckpointer(dense, str(tmp_path)).save("pruned")
        files = {"DENSE": str(tmp_path / "dense.pth"), "PRUNED": str(tmp_path / "pruned.pth")}
        opts = [files.get(x, x) if isinstance(x, str) else x for x in CASES[name]]
        return blendmask_cfg(*TRAINING, *opts)

    return make


@pytest.mark.parametrize("name", slow_but(CASES, "workers", "distillation", "gradual"))
def test_the_end_is_the_same(case, train, name):
    cfg = case(name)
    whole = train(cfg)
    assert not list(_differences(whole, train(cfg, 3, 5)))
    assert whole["resumption"]["streams"]["train"]["position"] >= 2 * ITERATIONS


@pytest.mark.parametrize("name", slow_but(["distillation", "sparsity"], "distillation"))
def test_checkpoints_without_the_trainer_resume_too(case, train, name):
    cfg = case(name)
    whole = train(cfg, kind=LikeAdet)
    assert "trainer" not in whole
    assert not list(_differences(whole, train(cfg, 3, kind=LikeAdet)))


def test_numbers_outside_of_the_state_dict_are_kept(registered, train, tmp_path):
    tiny = ("MODEL.RETINANET.NUM_CLASSES", 10, "MODEL.RESNETS.NORM", "BN")
    cfg = config_of("retinanet", *SMALL, *TINY, *tiny)
    cfg.merge_from_list([*(x for x in TRAINING[:4]), *TRAINING[6:-2]])
    cfg.PRUNER.SPARSITY.STRENGTH = 0.1  # any hook of blendprune
    whole = train(cfg)
    assert [x[1] for x in whole["resumption"]["numbers"]] == ["loss_normalizer"]
    assert not list(_differences(whole, train(cfg, 3)))


def test_another_seed_is_another_training(case, train):
    """What the tests above compare does depend on chance."""
    cfg = case("finetune")
    assert any(".model." in f".{x}" for x in _differences(train(cfg), train(cfg, 1, seed=7)))


def test_a_dense_training_is_left_alone(registered, blendmask_cfg, train):
    cfg = blendmask_cfg(*TRAINING)
    found = train(cfg)
    assert "resumption" not in found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExactResume, "before_train", lambda self: pytest.fail("it ran"))
        train(cfg)


def _resume(cfg, kind, caplog, change):
    """Train half, change something, and resume; returns the log."""
    half = cfg.clone()
    half.SOLVER.MAX_ITER = 3
    trainer = kind(half)
    trainer.resume_or_load(resume=False)
    trainer.train()
    change(cfg, os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))
    again = kind(cfg)
    again.resume_or_load(resume=True)
    caplog.clear()
    again.train()
    return caplog.text


def _other_sampler(cfg, path):
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"


def _from_upstream(cfg, path):
    content = torch.load(path, weights_only=False)
    del content["resumption"]
    torch.save(content, path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_from_upstream, "saved without blendprune's hooks: the images begin anew"),
        (_other_sampler, "another sampler than before, RepeatFactorTrainingSampler"),
        (lambda cfg, path: None, None),
    ],
)
def test_the_log_says_what_begins_anew(case, tmp_path, caplog, change, expected):
    cfg = case("finetune")
    cfg.OUTPUT_DIR = str(tmp_path)
    text = _resume(cfg, Trainer, caplog, change)
    assert expected in text if expected else "anew" not in text


class OwnLoader(Trainer):
    """A script whose images come from elsewhere."""

    @classmethod
    def build_train_loader(cls, cfg):
        upstream = iter(build_detection_train_loader(cfg))
        return [next(upstream) for _ in range(20)]


def test_a_loader_of_another_kind_trains_as_ever(case, tmp_path, caplog):
    cfg = case("finetune")
    cfg.OUTPUT_DIR = str(tmp_path)
    text = _resume(cfg, OwnLoader, caplog, lambda cfg, path: None)
    assert "this training has a list" in text


def test_random_numbers_follow_from_the_iteration(case, tmp_path):
    cfg = case("finetune")
    cfg.OUTPUT_DIR = str(tmp_path)
    drawn = []

    class Draw(HookBase):
        def before_step(self):
            drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))

    for _ in range(2):
        trainer = Trainer(cfg)
        trainer.register_hooks([Draw()])
        trainer.resume_or_load(resume=False)
        [exact] = [hook for hook in trainer._hooks if isinstance(hook, ExactResume)]
        exact._seed = 5
        trainer._hooks = [
            h for h in trainer._hooks if not isinstance(h, hooks.PeriodicCheckpointer)
        ]
        trainer.train()
    assert drawn[:ITERATIONS] == drawn[ITERATIONS:]
    assert len(set(drawn)) == ITERATIONS


def test_what_is_kept_for_a_resumption_is_plain_data(case, train, tmp_path):
    train(case("distillation"))
    content = read_checkpoint(str(tmp_path / "run" / f"model_{ITERATIONS - 1:07d}.pth"))
    assert content["resumption"]["processes"] == 1
