"""FLOPs and activations of single operators, in numbers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from blendprune.errors import ConfigError
from blendprune.pruning.cost import formulas
from blendprune.pruning.cost.count import count_activations, count_costs, count_flops
from tests.helpers.small_net import SmallNet, small_inputs

# The image has 3 channels of 8 x 8 pixels.
NUMBERS, PIXELS = 3 * 64, 64
LAYERS = {
    "a conv with a stride": (nn.Conv2d(3, 4, 3, stride=2, padding=1), 4 * 3 * 9 * 16, 4 * 16),
    "a grouped conv": (nn.Conv2d(3, 6, 1, groups=3), 6 * PIXELS, 6 * PIXELS),
    "a transposed conv": (nn.ConvTranspose2d(3, 4, 2, 2), 3 * 4 * 4 * PIXELS, 4 * 4 * PIXELS),
    "a linear": (nn.Sequential(nn.Flatten(), nn.Linear(NUMBERS, 5)), 5 * NUMBERS, 5),
    "a linear without bias": (nn.Linear(8, 5, bias=False), NUMBERS * 5, 3 * 8 * 5),
    "a batch norm": (nn.BatchNorm2d(3), 2 * NUMBERS, 0),
    "a group norm": (nn.GroupNorm(3, 3), 5 * NUMBERS, 0),
    "a layer norm": (nn.LayerNorm(8), 5 * NUMBERS, 0),
    "a pooling": (nn.AdaptiveAvgPool2d(2), NUMBERS, 0),
    "nearest neighbours": (nn.Upsample(scale_factor=2), 4 * NUMBERS, 0),
    "a bilinear one": (nn.Upsample(scale_factor=2, mode="bilinear"), 4 * 4 * NUMBERS, 0),
    "an activation": (nn.ReLU(), 0, 0),
}
OPERATORS = {
    "a product of batches": (lambda x: x[0] @ x[0].transpose(1, 2), 3 * 8 * 8 * 8, 3 * 8 * 8),
    "a product of two shapes": (lambda x: x[0, :, :, :2].mT @ x[0, :, :, :5], 3 * 2 * 8 * 5, 30),
    "a product": (lambda x: x[0, 0] @ x[0, 0], 8 * 8 * 8, 8 * 8),
    "a product and a sum": (lambda x: torch.baddbmm(x[0], x[0], x[0]), 3 * 8 * 8 * 8, 3 * 8 * 8),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x, x[:, :, :5], x[:, :, :5]),
        3 * 8 * 5 * (8 + 8),
        0,
    ),
    "a deformable conv": (
        lambda x: deform_conv2d(
            x, torch.zeros(1, 18, 4, 4), torch.ones(5, 3, 3, 3), stride=2, padding=1
        ),
        5 * 3 * 9 * 16,
        5 * 16,
    ),
    # Both directions, at 8 places: four gates of 5 numbers read 8 and the last 5.
    "an LSTM": (
        lambda x: nn.LSTM(8, 5, bidirectional=True).eval()(x[0, 0, :, None])[0],
        2 * 8 * 4 * 5 * (8 + 5),
        0,
    ),
    "a sampled grid": (lambda x: F.grid_sample(x, x[:, 0, :4, :8].view(1, 4, 4, 2)), 4 * 3 * 16, 0),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_costs(kind):
    layer, flops, activations = LAYERS[kind]
    net = SmallNet(lambda net, x: net.layer(x), layer=layer)
    counts = count_costs(net, small_inputs())
    assert sum(counts.flops.values()) == flops
    assert sum(counts.activations.values()) == activations
    assert counts.flops[""] == 0 and counts.uncounted == {}
    assert count_flops(net, small_inputs()) == counts.flops
    assert count_activations(net, small_inputs()) == counts.activations


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operator_costs(kind):
    run, flops, activations = OPERATORS[kind]
    counts = count_costs(SmallNet(lambda net, x: run(x)), small_inputs())
    assert (counts.flops, counts.activations) == ({"": flops}, {"": activations})
    assert counts.uncounted == {}


class Distances(nn.Module):
    """Runs an operator that has no formula, and a product."""

    def forward(self, x):
        return torch.cdist(x[0, 0], x[0, 1]) @ x[0, 0]


def test_a_registered_operator_counts(monkeypatch):
    net = SmallNet(lambda net, x: net.one(x), one=Distances())
    [name] = count_costs(net, small_inputs()).uncounted
    monkeypatch.setitem(formulas.OPERATORS, name, None)  # taken back afterwards
    formulas.register_flops(name, lambda result, *args: 100 + result.numel())
    counts = count_costs(net, small_inputs())
    assert counts.flops["one"] == 100 + 64 + 8 * 8 * 8
    assert counts.uncounted == {}


def test_a_registered_module_counts_by_its_formula_alone(monkeypatch):
    monkeypatch.setattr(formulas, "MODULES", {})

    class Closer(Distances):
        pass

    net = SmallNet(lambda net, x: net.inner(x), inner=nn.Sequential(Closer()))
    formulas.register_flops(Distances, lambda module, inputs, output: len(inputs) + output.numel())
    counts = count_costs(net, small_inputs())
    assert counts.flops == {"": 0, "inner": 0, "inner.0": 1 + 64}
    assert counts.uncounted == {}
    # What it multiplies is still in memory.
    assert counts.activations["inner.0"] == 64


def operator(name="mylib::op", is_view=False, tags=()):
    return SimpleNamespace(_schema=SimpleNamespace(name=name), is_view=is_view, tags=tags)


def test_what_gives_no_numbers_or_only_moves_them_is_free():
    numbers, places = torch.zeros(2), torch.zeros(2, dtype=torch.long)
    assert not formulas.is_free(operator(), numbers)
    assert not formulas.is_free(operator(), (numbers, places))
    assert not formulas.is_free(operator(), [places, numbers])
    assert formulas.is_free(operator(), places)
    assert formulas.is_free(operator(), (places, None, 3))
    assert formulas.is_free(operator(), 3)
    assert formulas.is_free(operator("aten::cat"), numbers)
    assert formulas.is_free(operator(is_view=True), numbers)
    assert formulas.is_free(operator(tags=[torch.Tag.pointwise]), numbers)


def test_every_activation_of_torch_is_free():
    known = {"Threshold": nn.Threshold(0.1, 0), "Softmax": nn.Softmax(1), "Softmin": nn.Softmin(1)}
    known["LogSoftmax"] = nn.LogSoftmax(1)
    names = set(nn.modules.activation.__all__) - {"MultiheadAttention"}
    assert len(names) > 25
    for name in names:
        # Each with and without a result in place of its input.
        layers = [known.get(name) or getattr(nn, name)()]
        if hasattr(layers[0], "inplace") and name not in known:
            layers.append(getattr(nn, name)(inplace=True))
        net = SmallNet(lambda net, x: net.inner(x.clone()), inner=nn.Sequential(*layers))
        assert count_costs(net, small_inputs()).uncounted == {}, name


@pytest.mark.parametrize("target", ["conv", 3, Distances(), int, None])
def test_what_has_no_flops_cannot_be_registered(target):
    with pytest.raises(ConfigError, match="register_flops got .*: pass a subclass of nn.Module or"):
        formulas.register_flops(target, len)


def test_a_formula_has_to_be_a_function():
    with pytest.raises(ConfigError, match="register_flops got 3: pass a function"):
        formulas.register_flops("aten::mm", 3)
