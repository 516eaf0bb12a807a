"""Losses and gradients on the data given, and what computing them leaves behind."""

import pytest
import torch
from torch import nn

from blendprune.errors import ConfigError
from blendprune.pruning import (
    prunable,
)
from blendprune.pruning.scores import (
    accumulate_gradients,
    as_batches,
)


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


def test_data_of_another_form_is_refused():
    with pytest.raises(ConfigError, match="holds no images"):
        as_batches([[]])
    with pytest.raises(ConfigError, match='lists of dicts with "image"'):
        as_batches([[torch.zeros(3, 4, 4)]])
