"""Predicted costs at other widths: those that the pruned model has."""

import copy

import pytest
import torch
from torch import nn

from blendprune.pruning import ChannelGraph, CostModel, prunable
from blendprune.pruning.cost.count import count_costs, total_costs
from tests.helpers.chain import Chain, chain_costs, chain_inputs
from tests.helpers.small_net import SmallNet, residual, small_inputs

UNITS = ("flops", "params", "activations", "memory")


def cost_model(net, inputs, groups):
    """The costs of a net inside the view, by its counts outside."""
    names = [name for name, _ in net.named_parameters()]
    with prunable(net):
        return CostModel(net, groups, count_costs(net, inputs, memory=True), names)


def groups_of(net, inputs):
    with prunable(net):
        return ChannelGraph(net, inputs).groups()


@pytest.mark.parametrize("widths", [(60, 60), (30, 60), (60, 20), (7, 11)])
def test_the_costs_of_convs_are_those_of_their_widths(widths):
    net, inputs = Chain().eval(), chain_inputs()
    groups = groups_of(net, inputs)
    costs = cost_model(net, inputs, groups)
    by_root = {"first": widths[0], "second": widths[1], "predictor": 2}
    for unit, expected in chain_costs(*widths).items():
        found = costs.cost(unit, [by_root[group.root] for group in groups])
        assert found == pytest.approx(expected, rel=1e-12)


def small(run, **layers):
    return SmallNet(run, **layers, p=nn.Conv2d(8, 2, 1)).eval()


NETS = {
    "a sum, a batch norm and biases": residual,
    "a group norm": lambda: small(
        lambda net, x: net.p(net.norm(net.a(x))), a=nn.Conv2d(3, 8, 1), norm=nn.GroupNorm(2, 8)
    ),
    "a layer norm and linears": lambda: SmallNet(
        lambda net, x: net.p(net.norm(net.a(x.mean((2, 3))))),
        a=nn.Linear(3, 8),
        norm=nn.LayerNorm(8),
        p=nn.Linear(8, 2, bias=False),
    ).eval(),
    "a flattened map": lambda: SmallNet(
        lambda net, x: net.p(net.a(x).flatten(1)),
        a=nn.Conv2d(3, 8, 4, stride=4),
        p=nn.Linear(32, 2),
    ).eval(),
    "a concatenation": lambda: SmallNet(
        lambda net, x: net.p(torch.cat([net.a(x), net.b(x)], 1)),
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(3, 4, 1),
        p=nn.Conv2d(12, 2, 1),
    ).eval(),
    "a depthwise conv": lambda: small(
        lambda net, x: net.p(net.b(net.a(x))),
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(8, 8, 3, groups=8),
    ),
    "a transposed conv": lambda: small(
        lambda net, x: net.p(net.b(net.a(x))),
        a=nn.Conv2d(3, 8, 1),
        b=nn.ConvTranspose2d(8, 8, 2, 2),
    ),
    "a parameter of channels": lambda: small(
        lambda net, x: net.p(net.a(x) * net.scale.view(1, -1, 1, 1)),
        a=nn.Conv2d(3, 8, 1),
        scale=nn.Parameter(torch.ones(8)),
    ),
    "a parameter of channels of a map": lambda: small(
        lambda net, x: net.p(net.a(x) * net.scale),
        a=nn.Conv2d(3, 8, 1),
        scale=nn.Parameter(torch.ones(8, 1, 1)),
    ),
    "a parameter of one number": lambda: small(
        lambda net, x: net.p(net.a(x) * net.scale),
        a=nn.Conv2d(3, 8, 1),
        scale=nn.Parameter(torch.ones(1, 1)),
    ),
}


@pytest.mark.parametrize("kind", NETS)
def test_they_are_the_costs_of_the_pruned_model(kind):
    inputs = small_inputs()
    net = NETS[kind]()
    groups = groups_of(net, inputs)
    costs = cost_model(net, inputs, groups)
    dense = total_costs(net, count_costs(net, inputs, memory=True))
    for unit in UNITS:
        assert costs.cost(unit, [group.width for group in groups]) == dense[unit]
    for index, group in enumerate(groups):
        if group.frozen_reason:
            continue
        other = copy.deepcopy(net)
        with prunable(other):
            graph = ChannelGraph(other, inputs)
            [same] = [each for each in graph.groups() if each.root == group.root]
            # One channel of each part.
            gone = [part * group.width // group.num_parts for part in range(group.num_parts)]
            graph.prune(same, gone)
        after = total_costs(other, count_costs(other, inputs, memory=True))
        widths = [each.width for each in groups]
        widths[index] -= len(gone)
        for unit in UNITS:
            assert costs.cost(unit, widths) == pytest.approx(after[unit], rel=1e-9), unit
        assert after["flops"] < dense["flops"] and after["activations"] < dense["activations"]


def test_operators_outside_layers_cost_the_same_at_every_width():
    net = small(
        lambda net, x: net.p(nn.functional.interpolate(net.a(x), scale_factor=2)),
        a=nn.Conv2d(3, 8, 1),
    )
    groups = groups_of(net, small_inputs())
    costs = cost_model(net, small_inputs(), groups)
    half = [4 if group.root == "a" else 2 for group in groups]
    resized = 8 * 16 * 16
    assert costs.cost("flops", half) == 4 * 3 * 64 + resized + 2 * 4 * 16 * 16


def test_only_what_is_named_counts_as_a_parameter():
    net, inputs = Chain().eval(), chain_inputs()
    groups = groups_of(net, inputs)
    with prunable(net):
        costs = CostModel(net, groups, count_costs(net, inputs), ["first.weight"])
    assert costs.cost("params", [group.width for group in groups]) == net.first.weight.numel()
