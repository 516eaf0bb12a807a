"""Losses and gradients on the data given, and what computing them leaves behind."""

import pytest
import torch
from torch import nn

from blendprune.errors import PruningError
from blendprune.pruning import (
    prunable,
)
from blendprune.pruning.scores import accumulate_gradients
from blendprune.pruning.scores.losses import training_loss


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_gradients_reach_frozen_stages_and_leave_no_trace(blendmask, batches, norm):
    model = blendmask("MODEL.RESNETS.NORM", norm, "MODEL.BACKBONE.FREEZE_AT", 5).train()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    outputs = next(m for m in model.modules() if hasattr(m, "moving_num_fg"))
    moving = outputs.moving_num_fg
    with prunable(model):
        accumulate_gradients(model, batches)
        stem = model.backbone.bottom_up.stem.conv1
        assert stem.weight.grad.abs().sum() > 0
        assert stem.norm.weight.grad is not None
        model.zero_grad(set_to_none=True)
    assert not stem.weight.requires_grad
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert all(module.training for module in model.modules() if isinstance(module, nn.Conv2d))
    assert outputs.moving_num_fg == moving


@pytest.mark.parametrize("error", [AssertionError("no gt"), KeyError("instances")])
def test_batches_without_the_labels_of_the_training_are_refused(error):
    class Labelled(nn.Linear):
        def forward(self, batch):
            raise error

    with pytest.raises(PruningError, match="forward of Labelled fails on the .* with their labels"):
        accumulate_gradients(Labelled(1, 1), [[{}]])


def test_losses_that_are_not_finite_are_named():
    class Broken(nn.Linear):
        def forward(self, batch):
            return {"loss_a": self.weight.sum(), "loss_b": self.weight.sum() / 0}

    with pytest.raises(PruningError, match=r"not finite \(loss_b\): check the weights and the lab"):
        training_loss(Broken(1, 1), [{}])
