"""Measuring sensitivity on a model of three convs: what is masked, and which loss comes of it."""

import pytest
import torch

from blendprune.errors import ConfigError
from blendprune.pruning import ChannelGraph, load_sensitivity, measure_sensitivity, prunable
from blendprune.pruning.graph.masking import masking
from tests.helpers.chain import Chain, chain_inputs
from tests.helpers.groups import group_of
from tests.helpers.small_net import SmallNet, small_inputs
from tests.helpers.state import remember, unchanged

BATCHES = [chain_inputs(1), chain_inputs(2) + chain_inputs(3)]


def measure(model=None, **how):
    model = Chain(10, 4) if model is None else model
    how = {"data": BATCHES, "importance": "magnitude", **how}
    return measure_sensitivity(model, chain_inputs(), **how)


def loss_without(model, layer, channels):
    """The mean loss of the batches with outputs of a layer at zero."""
    model.train()
    kept = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight[channels] = 0
        loss = sum(model(batch)["loss"].item() for batch in BATCHES) / len(BATCHES)
        layer.weight.copy_(kept)
    return loss


def test_the_least_important_channels_are_masked_and_the_loss_is_that_without_them():
    model = Chain(10, 4)
    with torch.no_grad():
        # The larger the number of a channel, the larger its weights.
        model.first.weight.mul_(torch.linspace(0.1, 1, 10).view(-1, 1, 1, 1))
    order = model.first.weight.square().sum((1, 2, 3))
    order = (order + model.second.weight.square().sum((0, 2, 3))).argsort()
    found = measure(model, ratios=[0.2, 0.5])
    assert set(found.groups) == {"first", "second"}
    assert found.loss == pytest.approx(loss_without(model, model.first, []))
    assert found.images == 3
    curve = found.groups["first"]
    assert (curve.width, curve.masked) == (10, [2, 5])
    expected = [loss_without(model, model.first, order[:count]) for count in (2, 5)]
    assert curve.loss == pytest.approx(expected, rel=1e-5)


def test_something_always_goes_and_something_always_stays():
    found = measure(ratios=[0.01, 0.99])
    assert found.groups["first"].masked == [1, 9]
    assert found.groups["second"].masked == [1, 3]
    assert measure().ratios == [0.1, 0.3, 0.5, 0.7, 0.9]


def test_each_part_loses_equal_counts():
    net = SmallNet(
        lambda net, x: (
            {"loss": net.p(net.norm(net.a(x))).square().mean()}
            if net.training
            else net.p(net.norm(net.a(x)))
        ),
        a=torch.nn.Conv2d(3, 12, 1),
        norm=torch.nn.GroupNorm(2, 12),
        p=torch.nn.Conv2d(12, 2, 1),
    )
    found = measure_sensitivity(
        net, small_inputs(), data=[small_inputs()], importance="magnitude", ratios=[0.34, 0.9]
    )
    assert found.groups["a"].masked == [4, 10]


def test_the_model_is_left_as_it_was_and_progress_is_told():
    for model in (Chain(10, 4).eval(), Chain(10, 4).train()):
        before, done = remember(model), []
        measure(model, progress=lambda *step, done=done: done.append(step))
        assert unchanged(model, before)
        assert done == [(1, 2), (2, 2)]
        assert not any(m._forward_pre_hooks for m in model.modules())


def test_masked_channels_are_zero_where_they_are_read_and_nowhere_else():
    seen = []
    model = SmallNet(
        lambda net, x: net.p(net.a(x).flatten(1)),
        a=torch.nn.Conv2d(3, 4, 4, stride=4),
        p=torch.nn.Linear(16, 2),
    ).eval()
    with prunable(model):
        group = group_of(ChannelGraph(model, small_inputs()).groups(), "a")
        model.a.register_forward_hook(lambda module, inputs, output: seen.append(output))
        with torch.no_grad():
            plain = model(small_inputs())
            with masking([(group, torch.tensor([1, 3]))]):
                masked = model(small_inputs())
            assert torch.equal(model(small_inputs()), plain)
    assert torch.equal(seen[0], seen[1])
    kept = seen[0].clone()
    kept[:, [1, 3]] = 0
    assert torch.allclose(masked, model.p(kept.flatten(1)))
    assert not torch.allclose(masked, plain)


def test_a_measurement_is_kept_in_a_file_and_read_from_it(tmp_path):
    path = str(tmp_path / "sensitivity.json")
    model = Chain(10, 4)
    found = measure(model, path=path, ratios=[0.5])
    assert load_sensitivity(path) == found
    assert measure_sensitivity(model, path=path, importance="magnitude") == found
    with pytest.raises(ConfigError, match="other weights"):
        measure(Chain(10, 4), path=path)
    with pytest.raises(ConfigError, match="other ratios"):
        measure(model, path=path, ratios=[0.25])


def test_no_data_is_refused():
    with pytest.raises(ConfigError, match="sensitivity is measured on data"):
        measure(data=None)


@pytest.mark.parametrize("ratios", [[], [0.5, 0.5], [0.0], [1.0], [0.6, 0.3]])
def test_ratios_that_cannot_hold_are_refused(ratios):
    with pytest.raises(ConfigError, match="ascending numbers between 0 and 1"):
        measure(ratios=ratios)
