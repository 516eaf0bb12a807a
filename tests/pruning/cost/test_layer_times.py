"""Times of layers over their widths."""

import itertools

import pytest
import torch
from torch import nn

from blendprune.pruning.cost.clock import FormClock
from blendprune.pruning.cost.forms import FormOptions, runtime_form
from blendprune.pruning.cost.layer_times import LayerTimes, _Table, measure_layers
from tests.helpers.chain import Chain, chain_inputs

GRID = [2, 4, 8]


def test_times_are_those_measured_and_linear_in_between():
    table = _Table(GRID, GRID, [[a * b for b in GRID] for a in GRID])
    for a, b in itertools.product(GRID, GRID):
        assert table(a, b) == a * b
    assert table(3, 8) == 24 and table(1, 1) == 1 and table(0, 8) == 0
    assert table(10, 8) == 80  # beyond the dense width it goes on


def test_a_wider_layer_never_takes_less():
    noise = torch.rand(3, 3, generator=torch.Generator().manual_seed(0)).tolist()
    table = _Table(GRID, GRID, noise)
    for a, b in itertools.product(range(9), range(9)):
        assert table(a, b) <= min(table(a + 1, b), table(a, b + 1))


def test_a_layer_is_the_sum_of_its_calls_and_one_width_may_be_all_that_counts():
    tables = {"norm": [_Table([1], GRID, [[1, 2, 4]]), _Table([1], GRID, [[10, 20, 40]])]}
    times = LayerTimes(tables, 0, "")
    assert times.at("norm", 1, 4) == times.at("norm", 77, 4) == 22
    assert "norm" in times and "conv" not in times


@pytest.mark.parametrize("step", [1, 8, 16, 24])
@pytest.mark.parametrize(
    "layer, shape",
    [(nn.GroupNorm(32, 256), (1, 256, 2, 2)), (nn.Conv2d(96, 64, 1, groups=32), (1, 96, 2, 2))],
)
def test_widths_are_those_that_a_layer_can_have(layer, shape, step, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    net, options = nn.Sequential(layer).eval(), FormOptions(str(tmp_path), 1)
    run = lambda: net(torch.randn(shape))  # noqa: E731
    times = measure_layers(net, run, runtime_form("eager"), options, step)
    assert times.measured > 3 and times.at("0", 96, 64) > 0


@pytest.mark.parametrize("name", ["eager", "deployed", "bfloat16", "onnxruntime", "openvino"])
def test_every_runtime_times_the_layers_of_a_model(name, tmp_path, monkeypatch):
    if name in ("onnxruntime", "openvino"):
        pytest.importorskip("onnx")
        pytest.importorskip(name)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    net, inputs = Chain(16, 16).eval(), chain_inputs()
    options = FormOptions(str(tmp_path), 1)
    with torch.no_grad():
        times = measure_layers(net, lambda: net(inputs), runtime_form(name), options, 8)
    for layer, width_in, width_out in (("first", 3, 16), ("second", 16, 16), ("predictor", 16, 2)):
        assert 0 < times.at(layer, width_in, width_out / 2) <= times.at(layer, width_in, width_out)


def test_a_clock_times_the_network_of_both_models(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    net, inputs = Chain(8, 8).eval(), chain_inputs()
    clock = FormClock("eager", net, inputs, 8)
    assert clock.ratio == 1 and clock.ms["before"] >= clock.timing.fixed_ms
    ratio = clock(Chain(4, 4).eval())
    assert ratio == clock.ratio == clock.ms["after"] / clock.ms["before"]
    assert clock.timing.ms == clock.ms["after"] > 0 and "second" in clock.timing.layers
    assert not net.training
