"""Latency: who runs when, and what comes of the times."""

import importlib
import math

import numpy
import pytest
import torch

from blendprune.pruning.cost import latency
from blendprune.pruning.cost.clock import FormClock
from blendprune.pruning.cost.latency import compare_latency, paired_ratio, ratio_error


class _Noted(torch.nn.Module):
    def __init__(self, name, calls):
        super().__init__()
        self.name, self.calls = name, calls

    def forward(self, inputs):
        self.calls.append((self.name, self.training, torch.is_grad_enabled(), inputs))


def _pair():
    calls = []
    return calls, {name: _Noted(name, calls) for name in ("before", "after")}


def test_models_take_turns_in_an_order_that_reverses():
    calls, models = _pair()
    compare_latency(models, ["image"], runs=2, warmup=1)
    names = [name for name, *_ in calls]
    assert names == ["before", "after", "after", "before", "before", "after"]


def test_models_run_in_eval_mode_without_gradients_and_return_to_their_own_mode():
    calls, models = _pair()
    models["before"].train()
    models["after"].eval()
    compare_latency(models, ["image"], runs=1)
    assert {(training, grad) for _, training, grad, _ in calls} == {(False, False)}
    assert models["before"].training and not models["after"].training


def test_the_result_is_the_median_in_milliseconds_without_the_warmup(monkeypatch):
    seconds = {"before": [9.0, 0.040, 0.5, 0.042], "after": [9.0, 0.020, 0.022, 0.001]}
    monkeypatch.setattr(latency, "_time", lambda call: seconds[call.func.name].pop(0))
    _, models = _pair()
    assert compare_latency(models, [], runs=3, warmup=1) == {"before": 42.0, "after": 20.0}


def test_the_time_of_a_forward_is_what_passes_meanwhile(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    waited = []

    def forward(inputs):
        now[0] += 0.0300004
        waited.append(inputs)

    model = torch.nn.Module()
    model.forward = forward
    assert compare_latency({"one": model}, ["image"]) == {"one": 30.0}
    # Two of the forwards are not timed.
    assert waited == [["image"]] * 17


def test_a_model_that_fails_leaves_the_modes_as_they_were():
    _, models = _pair()
    models["after"].forward = lambda inputs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        compare_latency(models, [])
    assert models["before"].training and models["after"].training


def test_no_runs_are_refused():
    with pytest.raises(ValueError, match="at least 1 forward"):
        compare_latency({}, [], runs=0)


def test_a_machine_that_changes_its_speed_does_not_change_a_ratio():
    slow = [1, 1, 1, 3, 3]  # the ratio of the medians would be 1.2
    assert paired_ratio([0.4, 0.4, 1.2, 1.2, 1.2], slow) == pytest.approx(0.4)


def test_the_error_of_a_ratio_is_that_of_repeated_measurements():
    random, true = numpy.random.default_rng(0), 0.5
    ratios, errors = [], []
    for _ in range(400):
        reference = 100 * random.lognormal(sigma=0.3, size=44)  # the machine changes its speed
        times = true * reference * random.normal(1, 0.08, size=44)
        ratios.append(paired_ratio(times, reference))
        errors.append(ratio_error(times, reference))
    assert numpy.std(ratios) / true == pytest.approx(numpy.mean(errors), rel=0.15)
    assert ratio_error([1.0], [2.0]) == math.inf
    assert ratio_error([1.0, 2.0], [2.0, 4.0]) == 0


def test_a_clock_goes_on_until_the_ratio_is_known_well(monkeypatch):
    module = importlib.import_module("blendprune.pruning.cost.clock")
    rounds = []

    def unsteady(spread):
        def time_in_turns(calls, runs, warmup):
            rounds.append(runs)
            random = numpy.random.default_rng(len(rounds))
            return {name: list(random.normal(10, spread, size=runs)) for name in calls}

        return time_in_turns

    for spread, expected in (0.01, 1), (3, 3):
        rounds.clear()
        monkeypatch.setattr(module, "time_in_turns", unsteady(spread))
        times = FormClock._times({"a": None, "b": None})
        assert len(rounds) == expected and len(times["a"]) == len(times["b"]) == sum(rounds)
