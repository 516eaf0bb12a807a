"""Processes that prune one model together give what one process gives, or one error."""

import copy
import os
import signal
import time

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm

from blendprune import distributed
from blendprune.errors import ConfigError, DistributedError, PruningError
from blendprune.pruning import build_importance, config_inputs, measure_sensitivity, prunable, prune
from blendprune.pruning.graph.proof import proven_graph
from blendprune.pruning.reconstruction.solve import ridge_regression
from blendprune.pruning.scores import as_batches, score_groups
from blendprune.pruning.search.search import Search
from tests.helpers.chain import Chain, chain_inputs
from tests.helpers.processes import NO_CPU, in_processes
from tests.helpers.small_zoo import config_of

IMAGES = [chain_inputs(seed) for seed in range(12)]
SCORES = ["obs", "taylor", "fisher", "hessian", "activation", "wanda", "random", "magnitude"]


@pytest.fixture
def chain():
    return Chain()


def _share():
    return IMAGES[comm.get_rank() :: comm.get_world_size()]


def _scores(model, name):
    with prunable(model):
        _, groups = proven_graph(model, chain_inputs())
        groups = [group for group in groups if group.prunable]
        return score_groups(model, groups, build_importance(name), _share())


def _prune(model, **options):
    torch.manual_seed(comm.get_rank())
    report = prune(model, data=_share(), max_flops=0.5, round_to=1, **options)
    return {"report": report, "state": model.state_dict()}


def _everything(model):
    with distributed.together():
        return {
            "scores": {name: _scores(copy.deepcopy(model), name) for name in SCORES},
            "sensitivity": measure_sensitivity(copy.deepcopy(model), data=_share(), ratios=[0.5]),
            "chosen": _prune(copy.deepcopy(model), reconstruct=False),
            "refit": _prune(copy.deepcopy(model)),
        }


def test_two_processes_prune_as_one_on_all_images(chain, tmp_path):
    one = _everything(chain)
    first, second = in_processes(lambda: _everything(chain), tmp_path)
    for name in set(SCORES) - {"random"}:
        for alone, ours, theirs in zip(*(each["scores"][name] for each in (one, first, second))):
            assert torch.equal(ours, theirs)
            torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-4 * float(alone.max()))
    assert all(map(torch.equal, first["scores"]["random"], second["scores"]["random"]))

    alone, ours = one["sensitivity"], first["sensitivity"]
    assert ours == second["sensitivity"] and ours.images == alone.images == len(IMAGES)
    assert ours.loss == pytest.approx(alone.loss, rel=1e-5)
    for root, group in alone.groups.items():
        assert ours.groups[root].loss == pytest.approx(group.loss, rel=1e-5)

    # The same channels go, and what is left is refit alike.
    alone, ours, theirs = (each["chosen"]["state"] for each in (one, first, second))
    assert all(torch.equal(alone[key], ours[key]) for key in alone)
    alone, ours, theirs = (each["refit"]["state"] for each in (one, first, second))
    for key, value in alone.items():
        assert torch.equal(ours[key], theirs[key])
        torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-3 * float(value.max()))
        assert not torch.equal(value, one["chosen"]["state"][key])
    assert one["refit"]["report"].layers == first["refit"]["report"].layers


def test_nothing_is_exchanged_over_a_default_group_that_takes_no_tensors_of_the_cpu(tmp_path):
    def run():
        with pytest.raises(RuntimeError, match="no tensors of the CPU"):
            torch.distributed.all_reduce(torch.ones(1))
        model = Chain()
        with distributed.together():
            _scores(copy.deepcopy(model), "obs")
            measure_sensitivity(copy.deepcopy(model), data=_share(), ratios=[0.5])
            return _prune(model)["state"]

    first, second = in_processes(run, tmp_path, backend=NO_CPU)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_random_choices_of_a_training_are_those_of_the_image(overlay, training_batch, tmp_path):
    model, images = build_model(config_of("mask-fpn")).eval(), training_batch(4, size=128)

    def score():
        own = [[image] for image in images[comm.get_rank() :: comm.get_world_size()]]
        with distributed.together():
            dense, found = copy.deepcopy(model), {}
            for name in ("taylor", "obs"):
                with prunable(dense):
                    _, groups = proven_graph(dense, config_inputs(dense))
                    groups = [group for group in groups if group.prunable]
                    importance = build_importance(name)
                    found[name] = score_groups(dense, groups, importance, own)
            options = {"importance": "taylor", "rounds": 1, "reconstruct": False}
            prune(dense, data=own, max_flops=0.7, **options)
        return found, dense.state_dict()

    alone, state = score()
    for ours, theirs in in_processes(score, tmp_path):
        for name in ("taylor", "obs"):
            # Near ties of obs may go in another order.
            for one, other in zip(alone[name], ours[name]):
                assert (one - other).abs().median() <= 1e-4 * one.max()
        assert all(torch.equal(theirs[name], value) for name, value in state.items())


@pytest.mark.parametrize("count", [8, 80])  # fewer positions than inputs, and more
def test_a_regression_is_on_the_positions_of_all_processes(count, tmp_path):
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(count, 2, width, generator=random) for width in (20, 3))
    which = torch.arange(count) // 2 % 2

    def fit():
        own = slice(comm.get_rank(), None, comm.get_world_size())
        with distributed.together():
            return ridge_regression(x[own], y[own], which[own], 0.01)

    alone = fit()
    for each in in_processes(fit, tmp_path):
        for ours, wanted in zip(each, alone):
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


class _Endless:
    """A loader that never ends; the second process has fewer images."""

    def __iter__(self):
        return (chain_inputs(seed) * 3 for seed in range(7 - 5 * comm.get_rank()))


def _batches(model):
    with distributed.together():
        return [len(batch) for batch in as_batches(_Endless(), model)[0]], distributed.share_of(7)


def test_each_process_reads_as_many_images_as_every_other(chain, tmp_path):
    assert in_processes(lambda: _batches(chain), tmp_path) == [([3, 3], 4)] * 2
    assert _batches(chain) == ([3] * 7, 7)


def _raised(function):
    """What a function raises inside the block."""
    try:
        with distributed.together():
            function()
    except Exception as error:
        return error
    return None


def _faults(model):
    """What each process raises, if the second one differs in some way; one after the other."""
    second = comm.get_rank() == 1
    found = {}

    bad = [[{"image": torch.full((3, 8, 8), 1e30)}]] if second else _share()[:1]
    found["data"] = _raised(lambda: prune(copy.deepcopy(model), data=bad, max_flops=0.5))

    other = copy.deepcopy(model)
    if second:
        other.first.weight.data.mul_(2)
    found["weights"] = _raised(lambda: prune(other, data=_share(), max_flops=0.5))

    chosen = Search.by_cost
    if second:
        Search.by_cost = lambda *args: {k: gone[1:] for k, gone in chosen(*args).items()}
    found["choice"] = _raised(lambda: prune(copy.deepcopy(model), data=_share(), max_flops=0.5))
    Search.by_cost = chosen

    found["steps"] = _raised(distributed.processes if second else lambda: distributed.gathered(1))
    found["shapes"] = _raised(lambda: distributed.summed({0: torch.ones(1 + second)}))
    found["own"] = _raised(lambda: 1 / 0 if second else None)
    found["clock"] = _raised(lambda: prune(copy.deepcopy(model), max_latency=0.5, **MAGNITUDE))
    found["fine"] = _raised(lambda: distributed.gathered(1))
    return found


MAGNITUDE = {"importance": "magnitude", "example_inputs": chain_inputs()}


def test_a_process_that_fails_or_differs_is_an_error_in_all(chain, tmp_path):
    start = time.perf_counter()
    first, second = in_processes(lambda: _faults(chain), tmp_path)
    assert time.perf_counter() - start < 60
    words = {
        "weights": "process 1 has other weights than process 0: start all processes with the same",
        "choice": "process 1 has other channels to remove than process 0",
        "steps": "the processes do different things .*start all with the same command",
        "shapes": "the processes add up different tensors",
    }
    for name, text in words.items():
        for error in (first[name], second[name]):
            assert type(error) is DistributedError
            with pytest.raises(DistributedError, match=text):
                raise error
    own = {"data": (PruningError, "PruningError: the losses"), "own": (ZeroDivisionError, "Zero")}
    for name, (kind, text) in own.items():
        assert type(second[name]) is kind
        with pytest.raises(DistributedError, match=rf"process 1 failed \({text}.*own message"):
            raise first[name]
    for each in (first, second):
        assert each["fine"] is None
        with pytest.raises(ConfigError, match="disturb each other's clocks"):
            raise each["clock"]


def _dies(model):
    def end(done, rounds):
        if comm.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with distributed.together():
        prune(model, data=_share(), max_flops=0.3, progress=end)


def _fails_while_the_other_is_busy():
    with distributed.together():
        if comm.get_rank() == 1:
            raise KeyError("its evaluator")
        comm.synchronize()


def test_a_process_that_dies_ends_the_others_within_a_minute(chain, tmp_path, monkeypatch):
    start = time.perf_counter()
    first, second = in_processes(lambda: _dies(chain), tmp_path / "dies")
    assert second == -signal.SIGKILL
    with pytest.raises(DistributedError, match="process 0 has lost another one: .*ended first"):
        raise first
    monkeypatch.setattr(distributed, "_LAST_WORDS", 0.1)
    first, second = in_processes(_fails_while_the_other_is_busy, tmp_path / "fails")
    assert type(first) is not KeyError and isinstance(first, RuntimeError)
    assert isinstance(second, KeyError)
    assert time.perf_counter() - start < 60
