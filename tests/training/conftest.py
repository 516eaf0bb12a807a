"""Trainers of detectron2 around small models, on two random images."""

import importlib.util
import os

import pytest
import torch
from detectron2.engine import SimpleTrainer


@pytest.fixture
def blendmask(registered, small_blendmasks):
    """A function that builds a small BlendMask; the tail overrides its config."""
    return lambda *opts: small_blendmasks("MODEL.FCOS.NORM", "BN", *opts)


@pytest.fixture
def trainer_of(training_batch):
    """A function that makes a SimpleTrainer for a model, on the same batch again and again."""

    def make(model, *hooks, lr=1e-3, optimizer=None):
        if optimizer is None:
            optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        trainer = SimpleTrainer(model, [training_batch()] * 100, optimizer)
        trainer.register_hooks(hooks)
        return trainer

    return make


@pytest.fixture
def adelaidets_trainer(adelaidet_root, adelaidet, overlay):
    """A function that makes the trainer of AdelaiDet's script, with another one's ``build_…``.

    Its loop, its hooks and its checkpoints are not upstream's.
    """
    path = os.path.join(adelaidet_root, "tools", "train_net.py")
    spec = importlib.util.spec_from_file_location("adelaidets_train_net", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def make(other):
        own = {name: value for name, value in vars(other).items() if name.startswith("build_")}
        return type("Trainer", (script.Trainer,), own)

    return make
