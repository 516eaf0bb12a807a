"""Operators of a user's own are registered by class or by name."""

import pytest
import torch

from blendprune.errors import ConfigError
from blendprune.pruning import register_channel_wise
from blendprune.pruning.tracing import channel_wise
from blendprune.pruning.tracing.autograd import name_of
from blendprune.pruning.tracing.channel_wise import is_registered


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


@pytest.mark.parametrize("operator", [Twice, "TwiceBackward"])
def test_a_function_of_a_users_own_is_registered_by_class_or_name(monkeypatch, operator):
    monkeypatch.setattr(channel_wise, "_registered", set())
    name = name_of(Twice.apply(torch.ones(2, requires_grad=True)).grad_fn)
    assert not is_registered(name)
    assert register_channel_wise(operator) is operator
    assert is_registered(name)


@pytest.mark.parametrize("operator", [torch.relu, torch.nn.ReLU, None, 3])
def test_anything_else_is_refused(operator):
    with pytest.raises(ConfigError, match="pass a torch.autograd.Function or the name"):
        register_channel_wise(operator)
