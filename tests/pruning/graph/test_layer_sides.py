"""Sides of layers, and sums by their inputs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from blendprune.pruning import ChannelGraph, prunable
from blendprune.pruning.graph.layer_sides import sum_by_input
from tests.helpers.groups import group_of
from tests.helpers.small_net import SmallNet, residual, small_inputs


def sides_by_name(net, layer):
    with prunable(net):
        group = group_of(ChannelGraph(net, small_inputs()).groups(), layer)
        names = {module: name for name, module in net.named_modules()}
        # Operators between the layers have no name.
        sides = {names[side.layer]: side for side in group.sides if side.layer in names}
        assert group.readers == [side for side in group.sides if side.reads]
        assert group.layers == [side.layer for side in group.sides]
        assert names[group.root_layer] == group.root
    return sides


def test_only_what_comes_after_reads():
    sides = sides_by_name(residual(), "a")
    assert {name: side.reads for name, side in sides.items()} == {
        "a": False,
        "b": False,
        "norm": False,
        "p": True,
    }
    for side in sides.values():
        assert side.entries.tolist() == side.channels.tolist() == list(range(8))


def test_entries_of_a_flattened_map_name_their_channel():
    net = SmallNet(
        lambda net, x: net.p(net.a(x).flatten(1)),
        a=nn.Conv2d(3, 2, 4, stride=4),
        p=nn.Linear(8, 2),
    ).eval()
    side = sides_by_name(net, "a")["p"]
    assert side.entries.tolist() == list(range(8))
    assert side.channels.tolist() == [0] * 4 + [1] * 4


def test_entries_behind_a_concatenation_have_other_numbers():
    net = SmallNet(
        lambda net, x: net.p(torch.cat([net.a(x), net.b(x)], 1)),
        a=nn.Conv2d(3, 2, 1),
        b=nn.Conv2d(3, 4, 1),
        p=nn.Conv2d(6, 2, 1),
    ).eval()
    side = sides_by_name(net, "b")["p"]
    assert side.entries.tolist() == [2, 3, 4, 5]
    assert side.channels.tolist() == [0, 1, 2, 3]


LAYERS = {
    "a conv": (nn.Conv2d(4, 6, 3, bias=False), F.conv2d, {}),
    "a grouped conv": (nn.Conv2d(4, 6, 3, groups=2, bias=False), F.conv2d, {"groups": 2}),
    "a transposed conv": (nn.ConvTranspose2d(4, 6, 3, bias=False), F.conv_transpose2d, {}),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_amounts_of_a_conv_are_summed_by_its_inputs(kind):
    layer, run, how = LAYERS[kind]
    amounts = torch.rand(layer.weight.shape, dtype=torch.float64)
    # Of one input channel of ones, on an image of one number, all outputs are its weights.
    expected = []
    for channel in range(4):
        x = torch.zeros(1, 4, 5, 5, dtype=torch.float64)
        x[0, channel, 2, 2] = 1
        expected.append(run(x, amounts, padding=0, **how).sum())
    assert torch.allclose(sum_by_input(layer, amounts), torch.stack(expected))


def test_amounts_of_a_linear_are_summed_by_its_inputs():
    assert sum_by_input(nn.Linear(2, 2), torch.tensor([[1.0, 2], [3, 4]])).tolist() == [4, 6]
