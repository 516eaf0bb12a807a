"""The trainer of AdelaiDet's own script: its loop, hooks and checkpoints are not upstream's."""

import importlib.util
import os

import pytest
import torch
from detectron2.engine import DefaultTrainer

from tests.training import test_best, test_resume
from tests.training.test_resume import make_cfg  # noqa: F401  (a fixture)


@pytest.fixture
def trainer_with(adelaidet_root, adelaidet, overlay):
    """A function that makes AdelaiDet's trainer with the loaders and the model of another one."""
    path = os.path.join(adelaidet_root, "tools", "train_net.py")
    spec = importlib.util.spec_from_file_location("adelaidets_train_net", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def make(other):
        own = {
            name: value
            for name, value in vars(other).items()
            if name.startswith("build_") or name == "aps"
        }
        kind = type("Trainer", (script.Trainer,), own)
        assert kind.train is not DefaultTrainer.train
        return kind

    return make


def test_it_leaves_the_best_model(trainer_with, tmp_path):
    cfg = test_best.config(tmp_path)
    trainer = test_best._train(cfg, [36.5, 34.0, 35.0, 33.2], kind=trainer_with(test_best.Trainer))
    start = test_best._start(cfg)
    assert test_best._equal(start, test_best._weights(cfg, "model_final.pth"))
    last = torch.load(os.path.join(cfg.OUTPUT_DIR, "model_last.pth"), weights_only=False)
    assert "scheduler" in last and test_best._equal(trainer.model.state_dict(), last["model"])


def test_its_gradual_pruning_resumes(trainer_with, make_cfg):  # noqa: F811
    test_resume.check_that_it_resumes(make_cfg, trainer_with(test_resume.Trainer), ())
