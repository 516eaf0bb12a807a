"""Groups are proven: whatever a model does to its channels, it is right or stays, by name."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blendprune
from blendprune.errors import ConfigError
from blendprune.pruning import ChannelGraph, prunable, prune
from blendprune.pruning.graph.masking import masking
from blendprune.pruning.graph.proof import proven_graph
from tests.helpers.small_net import SmallNet
from tests.helpers.state import remember, unchanged

WIDTH = 8
HOW = {"pruning_ratio": 0.4, "importance": "magnitude", "rounds": 2}


def without_gradient(y):
    with torch.no_grad():
        gate = y[:, :1].sigmoid()
    return y * gate


# Between two convs, on (N, 8, H, W). None of them leaves a channel what it is without the others.
MIXERS = {
    "coordinates go by number": lambda y: torch.cat([y, y[:, :2] * 0], 1)[:, :8],
    "gate": lambda y: y * y[:, :1].sigmoid(),
    "gate by select": lambda y: y * y[:, 0].unsqueeze(1).sigmoid(),
    "gate by index_select": lambda y: y * y.index_select(1, torch.tensor([2])).sigmoid(),
    "gate by detached": lambda y: y * y.detach()[:, 5:6].sigmoid(),
    "gate by numpy": lambda y: y * torch.from_numpy(y.detach().numpy()[:, -1:].copy()).sigmoid(),
    "gate without gradient": without_gradient,
    "mean of the first half": lambda y: y * y[:, :4].mean(1, keepdim=True),
    "mean by numpy": lambda y: y * torch.from_numpy(y.detach().numpy().mean(1, keepdims=True)),
    "argmax": lambda y: y * y.argmax(1, keepdim=True),
    "permutation": lambda y: y[:, torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])],
    "shuffle": lambda y: y.unflatten(1, (2, 4)).transpose(1, 2).reshape(y.shape),
    "roll": lambda y: y.roll(1, 1),
    "sort": lambda y: y.sort(1).values,
    "cumsum": lambda y: y.cumsum(1),
    "softmax": lambda y: y.softmax(1),
    "normalize": lambda y: F.normalize(y, dim=1),
    "constant weights": lambda y: y * torch.linspace(0, 1, WIDTH).view(-1, 1, 1),
    "constant weights, sliced": lambda y: y * torch.linspace(0, 1, 8)[: y.shape[1], None, None],
    "number of channels": lambda y: y * y.shape[1],
    "einsum": lambda y: torch.einsum("nchw,ndhw->nchw", y, y),
}
# These do: dimensions may change places and come back, and channels turn round.
PLAIN = {
    "flip": lambda y: y.flip(1),
    "relu": lambda y: y.relu(),
    "coordinates come and go": lambda y: torch.cat([y, y.new_ones(1, 2, *y.shape[2:])], 1)[:, :-2],
    "coordinates in front": lambda y: torch.cat([y.new_ones(1, 2, *y.shape[2:]), y], 1)[:, 2:],
    "transpose": lambda y: y.transpose(1, 2).contiguous().transpose(1, 2),
    "gate by mean of positions": lambda y: y * y.mean((2, 3), keepdim=True).sigmoid(),
}


def net_with(operator):
    return SmallNet(
        lambda net, x: net.d(net.c(operator(net.b(net.a(x)).relu())).relu()),
        a=nn.Conv2d(3, WIDTH, 3, padding=1),
        b=nn.Conv2d(WIDTH, WIDTH, 1),
        c=nn.Conv2d(WIDTH, 6, 1),
        d=nn.Conv2d(6, 2, 1),
    ).eval()


def images(side):
    return [{"image": torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))}]


def reasons(net, inputs):
    with prunable(net):
        graph, groups = proven_graph(net, inputs)
    return {group.root: group.frozen_reason for group in groups}, graph


def assert_right(net, inputs, frozen):
    """Without any one channel of any group, the net gives what it gives with it masked."""
    with prunable(net):
        groups = ChannelGraph(net, inputs, frozen=frozen).groups()
    for number, group in enumerate(groups):
        for channel in range(0 if group.prunable else group.width, group.width):
            other = copy.deepcopy(net)
            with prunable(other), torch.no_grad():
                graph = ChannelGraph(other, inputs, frozen=frozen)
                same = graph.groups()[number]
                with masking([(same, torch.tensor([channel]))]):
                    masked = other(inputs)
                graph.prune(same, [channel])
                assert torch.allclose(other(inputs), masked, atol=1e-5), (group.root, channel)


# As many pixels as channels, which hides a dimension behind another, and not as many.
@pytest.mark.parametrize("side", [WIDTH, 12])
@pytest.mark.parametrize("mixer", MIXERS)
def test_channels_that_an_operator_mixes_stay_and_all_others_go(mixer, side):
    net = net_with(MIXERS[mixer])
    before = remember(net)
    found, graph = reasons(net, images(side))
    assert unchanged(net, before)
    assert found["b"], mixer
    assert found["a"] == found["c"] == ""
    assert_right(net, images(side), graph.frozen)


@pytest.mark.parametrize("operator", PLAIN)
def test_channels_that_no_operator_mixes_may_go(operator):
    net = net_with(PLAIN[operator])
    found, graph = reasons(net, images(WIDTH))
    assert found == {"a": "", "b": "", "c": "", "d": "prediction layer"}
    assert not graph.frozen
    assert_right(net, images(WIDTH), {})


def test_the_reason_names_the_layer_where_it_shows():
    assert reasons(net_with(MIXERS["gate by numpy"]), images(8))[0]["b"] == (
        "an operator in front of c mixes its channels"
    )
    assert reasons(net_with(MIXERS["constant weights"]), images(8))[0]["b"] == (
        "without some of its channels, the model fails behind b (RuntimeError: The size of tensor "
        "a (5) must match the size of tensor b (8) at non-singleton dimension 1)"
    )


def test_several_guilty_groups_are_found_and_the_others_go():
    def run(net, x):
        for layer in net.layers:
            x = layer(x)
            x = without_gradient(x) if layer in (net.layers[1], net.layers[4]) else x
        return net.p(x)

    layers = nn.ModuleList([nn.Conv2d(3 if i == 0 else 8, 8, 1) for i in range(6)])
    net = SmallNet(run, layers=layers, p=nn.Conv2d(8, 2, 1)).eval()
    found, _ = reasons(net, images(12))
    assert [name for name, reason in found.items() if reason and name != "p"] == [
        "layers.4",
        "layers.1",
    ]


def test_a_gate_that_is_always_open_on_the_images_is_found():
    net = SmallNet(
        lambda net, x: net.p(net.b(net.a(x)) * (1 + (net.b(net.a(x))[:, :1] > 0))),
        a=nn.Conv2d(3, WIDTH, 1),
        b=nn.Conv2d(WIDTH, WIDTH, 1),
        p=nn.Conv2d(WIDTH, 2, 1),
    ).eval()
    with torch.no_grad():
        net.b.bias[:] = 3 + torch.arange(WIDTH)
    assert reasons(net, images(12))[0]["b"]


def test_many_guilty_groups_cost_few_forwards():
    def run(net, x):
        run.count += 1
        for layer in net.layers:
            x = without_gradient(layer(x))
        return net.p(x)

    layers = nn.ModuleList([nn.Conv2d(3 if i == 0 else 8, 8, 1) for i in range(32)])
    net = SmallNet(run, layers=layers, p=nn.Conv2d(8, 2, 1)).eval()
    run.count = 0
    found, _ = reasons(net, images(12))
    assert all(found.values())
    # Up to four forwards a comparison, two comparisons for each group.
    assert run.count < 4 * 2 * 32 * 2


def test_plan_prune_and_sensitivity_agree_on_what_stays():
    net = net_with(MIXERS["gate by numpy"])
    reason = "an operator in front of c mixes its channels"
    plan = blendprune.plan(net, images(12))
    assert {g.root: g.frozen_reason for g in plan.groups}["b"] == reason
    with pytest.raises(ConfigError, match=f"no layer it names can lose channels: {reason}"):
        prune(net, images(12), pruning_ratio_dict={"b": 0.5}, **HOW)
    report = prune(net, images(12), **HOW)
    assert f"b: all 8 channels stay: {reason}" in report.notes
    assert report.layers["b"]["after"] == 8 > report.layers["a"]["after"]


def test_weights_of_zero_hide_nothing():
    # An attention branch that starts switched off.
    net = SmallNet(
        lambda net, x: net.c(net.a(x) + net.gamma * net.a(x)[:, :1]),
        a=nn.Conv2d(3, WIDTH, 1),
        c=nn.Conv2d(WIDTH, 2, 1),
        gamma=nn.Parameter(torch.zeros(1)),
    ).eval()
    nn.init.zeros_(net.c.weight)
    assert reasons(net, images(12))[0]["a"]
    assert not net.c.weight.any() and not net.gamma.any()


@pytest.mark.parametrize("silent", [slice(0, 4), slice(0, 8, 2), [0]])
def test_silent_channels_hide_nothing(silent):
    def drop_the_first(net, x):
        y = net.c(x)
        y[:, 0] = 0
        return net.p(net.norm(y))

    net = SmallNet(
        drop_the_first,
        c=nn.Conv2d(3, WIDTH, 1),
        norm=nn.BatchNorm2d(WIDTH),
        p=nn.Conv2d(WIDTH, 2, 1),
    ).eval()
    with torch.no_grad():
        net.c.weight[silent] = 0
        net.norm.weight[silent] = 1e-6
        net.p.weight[:, silent] = 0
    state = remember(net)
    assert reasons(net, images(12))[0]["c"]
    assert unchanged(net, state)


def test_what_a_model_returns_beside_its_predictions_counts():
    net = SmallNet(
        lambda net, x: {"y": net.c(net.a(x)), "mean": net.a(x).mean(1)},
        a=nn.Conv2d(3, WIDTH, 1),
        c=nn.Conv2d(WIDTH, 2, 1),
    ).eval()
    assert reasons(net, images(12))[0]["a"] == (
        "an operator in front of the output mixes its channels"
    )
    net.run = lambda net, x: {"y": net.c(net.a(x)), "features": net.a(x)}
    assert reasons(net, images(12))[0]["a"] == ""


def test_what_rounding_alone_changes_accuses_nobody():
    def run(net, x):
        y = net.a(x)
        # As on processors that add up other numbers of channels in another order.
        rounded = net.score(y) * (1 + 2e-7 * y.shape[1])
        return net.c(y * (1e5 * rounded).detach().sin())

    net = SmallNet(
        run, a=nn.Conv2d(3, 64, 1), score=nn.Conv2d(64, 1, 1), c=nn.Conv2d(64, 2, 1)
    ).eval()
    found, graph = reasons(net, images(64))
    assert found["a"] == ""
    assert graph.notes == ["groups are not proven from c on: rounding alone changes what it gives"]


def test_a_model_that_differs_each_time_is_not_proven_and_that_is_said():
    calls = []

    def run(net, x):
        calls.append(1)
        return net.c(net.a(x) * len(calls) + len(calls) % 3)

    net = SmallNet(run, a=nn.Conv2d(3, WIDTH, 1), c=nn.Conv2d(WIDTH, 2, 1)).eval()
    found, graph = reasons(net, images(12))
    assert found == {"a": "", "c": "prediction layer"}
    assert graph.notes == ["groups are not proven from c on: rounding alone changes what it gives"]
