"""A latency as the target: reached in any form, by times of layers, checked on the whole model."""

import pytest
import torch

import blendprune
from blendprune.errors import ConfigError, TargetUnreachable
from blendprune.pruning import pruning_table
from tests.helpers.chain import Chain, chain_inputs
from tests.helpers.state import remember, unchanged
from tests.helpers.steady_clock import SteadyClock


@pytest.fixture
def clock(monkeypatch, tmp_path):
    with SteadyClock().running(monkeypatch, tmp_path) as clock:
        yield clock


def prune(model, **how):
    how = {"runtime": "steady", "importance": "magnitude", "round_to": 1, **how}
    return blendprune.prune(model, chain_inputs(), **how)


def ratio(report):
    return report.latency_ms["after"] / report.latency_ms["before"]


@pytest.mark.parametrize("target", [0.8, 0.5, 0.2])
def test_a_fraction_is_met_within_two_percent(clock, target):
    report = prune(Chain(), max_latency=target)
    assert 0.95 * target <= ratio(report) <= 1.02 * target
    assert ratio(report) == pytest.approx(report.flops["after"] / report.flops["before"], abs=1e-3)
    assert report.runtime == "steady" and "latency (ms, steady)" in pruning_table(report)


def test_milliseconds_are_met_and_what_surrounds_the_network_counts(clock):
    clock.around = 0.4
    dense = 1e-6 * sum(blendprune.pruning.count_flops(Chain(), chain_inputs()).values()) + 400
    report = prune(Chain(), max_latency=400 + 0.5 * (dense - 400))
    assert report.latency_ms["before"] == pytest.approx(dense, abs=1e-3)
    kept = report.flops["after"] / report.flops["before"]
    assert report.latency_ms["after"] == pytest.approx(400 + kept * (dense - 400), abs=1e-2)
    assert kept <= 0.51 or report.latency_ms["after"] <= 1.02 * (400 + 0.5 * (dense - 400))


def test_levels_are_reached_one_after_the_other(clock):
    reached = []
    report = prune(
        Chain(),
        max_latency=0.3,
        levels=[0.7, 0.5],
        on_level=lambda level, report: reached.append((level, ratio(report))),
    )
    assert [level for level, _ in reached] == [0.7, 0.5]
    for level, found in [*reached, (0.3, ratio(report))]:
        assert 0.95 * level <= found <= 1.02 * level


def test_what_surrounds_the_network_is_no_goal_of_pruning(clock):
    clock.around = 1.0
    net = Chain()
    with pytest.raises(TargetUnreachable, match="max_latency 0.5 is out of reach"):
        prune(net, max_latency=0.5)
    assert net.first.out_channels == net.second.out_channels == 60


def test_a_model_that_takes_as_long_however_narrow_is_refused_and_stays(clock, monkeypatch):
    monkeypatch.setattr("tests.helpers.steady_clock._Made.network", lambda made, inputs: 0.01)
    net, done = Chain().eval(), []
    before = remember(net)
    with pytest.raises(TargetUnreachable, match="max_latency 0.7 is out of reach|not met in 12"):
        prune(net, max_latency=0.7, progress=lambda *step: done.append(step))
    assert done and unchanged(net, before)


def test_ratios_of_single_layers_precede(clock):
    net = Chain()
    report = prune(net, max_latency=0.3, pruning_ratio_dict={"second": 0.5})
    assert net.second.out_channels == 30
    assert 0.95 * 0.3 <= ratio(report) <= 1.02 * 0.3


def test_channels_go_where_the_clock_says_that_time_is(clock, monkeypatch, tmp_path):
    def first_width(factor):
        clock.price = lambda layer: factor if layer.in_channels == 3 else 1.0
        monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / str(factor)))
        torch.manual_seed(0)
        net = Chain(32, 32)
        # The loss that a channel costs, per millisecond that it saves, decides.
        data = [chain_inputs(seed) for seed in range(2)]
        prune(net, max_latency=0.6, importance="obs", data=data, reconstruct=False)
        return net.first.out_channels

    assert first_width(100.0) < first_width(1.0)


def test_times_of_layers_are_measured_once(clock, tmp_path):
    report = prune(Chain(), max_latency=0.6)
    count = len(clock.timed)
    [kept] = tmp_path.glob("blendprune/layer_times_*.json")
    assert count > 10 and any(str(kept) in note for note in report.notes)
    prune(Chain(), max_latency=0.6)
    assert len(clock.timed) == count
    kept.write_text("{")  # it is measured again
    prune(Chain(), max_latency=0.6)
    assert len(clock.timed) == 2 * count


def test_a_target_that_the_model_meets_already_is_refused(clock):
    with pytest.raises(ConfigError, match="is met already"):
        prune(Chain(), max_latency=10_000)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime-int8", "tensorrt"])
def test_a_form_whose_layers_cannot_be_timed_is_no_runtime(name):
    with pytest.raises(ConfigError, match="there is no runtime .* eager, deployed"):
        blendprune.prune(Chain(), chain_inputs(), max_latency=0.5, runtime=name)
