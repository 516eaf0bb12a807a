"""Weights that are computed are parameters inside the view, and come back as they were."""

import importlib

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.nn.utils import prune as masks

from blendprune.pruning import prunable
from blendprune.pruning.tracing import folding

KINDS = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm, old": weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "spectral_norm, old": spectral_norm,
    "masks": lambda layer: masks.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_opening_and_closing_the_view_leaves_no_trace(kind):
    net = nn.Sequential(KINDS[kind](nn.Conv2d(3, 4, 3))).eval()
    x = torch.rand(1, 3, 8, 8)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    facts = type(net[0]), [(name, id(p)) for name, p in net.named_parameters()]
    before = net(x)
    with prunable(net):
        assert [name for name, _ in net.named_parameters()] in (
            ["0.weight", "0.bias"],
            ["0.bias", "0.weight"],
        )
        assert torch.allclose(net(x), before, atol=1e-6)
    assert (type(net[0]), [(name, id(p)) for name, p in net.named_parameters()]) == facts
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(net(x), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_that_changes_inside_is_what_is_computed_outside(kind):
    net = nn.Sequential(KINDS[kind](nn.Conv2d(3, 4, 3))).eval()
    x = torch.rand(1, 3, 8, 8)
    with prunable(net):
        net[0].weight.data.mul_(0.5)[1] = 0
        inside = net(x)
    assert torch.allclose(net(x), inside, atol=1e-6)


def test_importing_it_draws_no_random_numbers():
    state = torch.get_rng_state()
    importlib.reload(folding)
    assert torch.equal(torch.get_rng_state(), state)
