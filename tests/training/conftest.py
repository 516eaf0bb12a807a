"""Trainers of detectron2 around small models, on two random images."""

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model


@pytest.fixture
def blendmask(registered, blendmask_cfg):
    """A function that builds a small BlendMask; the tail overrides its config."""
    return lambda *opts: build_model(blendmask_cfg("MODEL.FCOS.NORM", "BN", *opts))


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
