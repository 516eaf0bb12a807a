"""Operators that treat every channel alone: known ones, registered ones, and all others."""

import pytest
import torch
from torch.nn import functional as F

from blendprune.errors import ConfigError
from blendprune.pruning import register_channel_wise
from blendprune.pruning.tracing import channel_wise
from blendprune.pruning.tracing.channel_wise import follows_constant, is_channel_wise

X = torch.rand(2, 6, 4, 4).requires_grad_() * 1.0
ALONE = {
    "relu": lambda x: x.relu(),
    "product": lambda x: x * 2,
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "max pool": lambda x: F.max_pool2d(x, 2),
    "channels last": lambda x: x.permute(0, 2, 3, 1),
    "one position": lambda x: x[:, :, 0],
    "mean of positions": lambda x: x.mean((2, 3)),
    "mean of the last": lambda x: x.mean(-1),
    "stack behind": lambda x: torch.stack([x, x], -1),
    "some images": lambda x: x[torch.tensor([1, 0])],
    "concatenation": lambda x: torch.cat([x, x], 1),
}
MIXED = {
    "softmax": lambda x: x.softmax(1),
    "mean of channels": lambda x: x.mean(1),
    "sum of everything in channels": lambda x: x.sum((1, 2)),
    "one channel": lambda x: x[:, 0],
    "stack in front": lambda x: torch.stack([x, x], 0),
    "some channels": lambda x: x[:, torch.tensor([1, 0, 2])],
    "product of matrices": lambda x: x @ x,
    "cumulative sum": lambda x: x.cumsum(1),
}


@pytest.mark.parametrize("kind", ALONE)
def test_an_operator_that_treats_channels_alone_is_known(kind):
    assert is_channel_wise(ALONE[kind](X).grad_fn, 6)


@pytest.mark.parametrize("kind", MIXED)
def test_an_operator_that_mixes_or_drops_channels_is_not(kind):
    assert not is_channel_wise(MIXED[kind](X).grad_fn, 6)


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
    grad_fn = Twice.apply(X).grad_fn
    assert not is_channel_wise(grad_fn, 6)
    assert register_channel_wise(operator) is operator
    assert is_channel_wise(grad_fn, 6)


@pytest.mark.parametrize("operator", [torch.relu, torch.nn.ReLU, None, 3])
def test_anything_else_is_refused(operator):
    with pytest.raises(ConfigError, match="pass a torch.autograd.Function or the name"):
        register_channel_wise(operator)


def test_a_part_behind_a_constant_is_noticed():
    constant = torch.rand(2, 1, 4, 4)
    assert follows_constant(torch.cat([constant, X], 1).grad_fn)
    assert not follows_constant(torch.cat([X, constant], 1).grad_fn)
    assert not follows_constant(torch.cat([X, X], 1).grad_fn)
