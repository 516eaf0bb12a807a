"""Models in their forms, timed in turns: what runs, and what comes of it."""

import copy
import importlib

import pytest
import torch

from blendprune.deployment.bench import FORMS, bench, bench_table
from blendprune.deployment.bench.memory import peak_memory
from blendprune.errors import ConfigError
from blendprune.pruning.cost.forms import Form
from tests.helpers.small_net import residual, small_inputs
from tests.helpers.state import remember, unchanged


@pytest.fixture
def net():
    return residual()


def test_the_clock_compares_each_form_with_the_dense_model(blendmask, monkeypatch):
    import blendprune

    dense, images = blendmask()
    dense.train().backbone.eval()
    modes = [module.training for module in dense.modules()]
    pruned = copy.deepcopy(dense)
    blendprune.prune(pruned, max_flops=0.5, importance="magnitude", rounds=1)
    before = remember(dense)
    found = bench({"dense": dense, "pruned": pruned}, images, runs=2, batch_sizes=[1, 2])
    assert dense.training and unchanged(dense, before)
    assert [module.training for module in dense.modules()] == modes
    rows = {(row["model"], row["form"], row["batch"]): row for row in found["rows"]}
    assert len(rows) == len(found["rows"]) == 8
    for (model, _, batch), row in rows.items():
        assert row["low"] <= row["ms"] <= row["high"]
        assert row["speedup"] > 0 and row["speedup_in_form"] > 0
        assert model != "dense" or row["speedup_in_form"] == 1
        assert row["images_per_s"] == pytest.approx(1e3 * batch / row["ms"], abs=1e-3)
        assert (row["flops"] == 1) == (model == "dense") and row["flops"] <= 1
    assert found["threads"] == torch.get_num_threads()
    assert found["image"] == list(images[0]["image"].shape)
    table = bench_table(found)
    assert "| pruned" in table and f"{rows['pruned', 'deployed', 2]['ms']:.1f}" in table
    assert headers(table)[6:9] == ["times faster", "in this form", "FLOPs"]
    assert table.splitlines()[-1] == (
        "times faster: than dense, eager; in this form: than dense in the same form; "
        "FLOPs: of dense's"
    )


def test_what_took_turns_is_compared_in_pairs(net, monkeypatch):
    # From one run to the next the machine gets ten times slower.
    times = {("a", "eager"): 8, ("a", "deployed"): 4, ("b", "eager"): 4, ("b", "deployed"): 1}
    monkeypatch.setattr(
        importlib.import_module("blendprune.deployment.bench.bench"),
        "time_in_turns",
        lambda calls, runs: {key: [times[key], 10 * times[key]] for key in calls},
    )
    rows = bench({"a": net, "b": net}, small_inputs(), runs=2)["rows"]
    found = [(row["speedup"], row["speedup_in_form"]) for row in rows]
    assert found == [(1, 1), (2, 1), (2, 2), (8, 4)]
    assert [row["ms"] for row in rows] == [44, 22, 22, 5.5]


def test_the_network_is_timed_alone_on_request(blendmask, monkeypatch):
    module = importlib.import_module("blendprune.deployment.bench.bench")
    timed, calls = [], module.time_in_turns
    monkeypatch.setattr(
        module, "time_in_turns", lambda given, runs: timed.append(given) or calls(given, runs)
    )
    model, images = blendmask()
    found = bench({"dense": model}, images, runs=2, network=True)
    for row in found["rows"]:
        assert row["network_ms"] > 0 and row["network_speedup_in_form"] == 1
    whole, network = timed
    with torch.no_grad():
        assert [len(call()) for call in whole.values()] == [1, 1]
        assert [call() for call in network.values()] == [None, None]  # nothing is decoded
    table = bench_table(found)
    assert f"{found['rows'][1]['network_ms']:.1f}" in table
    assert "on as many as the config allows" in table.splitlines()[-1]
    assert "network" not in bench_table(bench({"dense": model}, images, runs=1))


def headers(table):
    return [header.strip() for header in table.splitlines()[0].strip("|").split("|")]


@pytest.mark.parametrize("forms", [["eager"], ["eager", "deployed"]])
def test_columns_of_a_table_differ_and_each_tells_its_rows_apart(net, forms):
    alone = bench({"a": net}, small_inputs(), forms=forms, runs=1)
    for row in alone["rows"]:
        row |= {f"network_{key}": row[key] for key in ("ms", "speedup", "speedup_in_form")}
    found = headers(bench_table(alone))
    assert found[:6] == ["model", "form", "images", "ms", "quartiles", "images/s"]
    faster = ["times faster"] * (len(forms) > 1)
    network = ["network alone: ms", *["network alone: times faster"][: len(faster)]]
    assert found[6:] == [*faster, *network, "peak MB"]
    both = {**alone, "rows": [*alone["rows"], *({**row, "model": "b"} for row in alone["rows"])]}
    found = headers(bench_table(both))
    assert len(set(found)) == len(found) and "FLOPs" in found
    assert ("in this form" in found) == (len(forms) > 1)


def test_a_form_that_does_not_run_is_listed_and_the_others_go_on(net, monkeypatch):
    def fail(model, inputs, options):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setitem(FORMS._obj_map, "compiled", Form("compiled", fail, fail))
    found = bench({"net": net}, small_inputs(), forms=["compiled", "eager"], runs=1)
    assert [row["form"] for row in found["rows"] if "ms" in row] == ["eager"]
    assert "net, compiled: RuntimeError: no compiler" in bench_table(found)
    assert found["rows"][-1]["speedup"] is None


def test_what_evaluates_sees_every_form_and_its_ap_is_in_the_table(net):
    seen = []

    def evaluate(run):
        seen.append(run(small_inputs()))
        return {"segm": 40.0 + len(seen)}

    found = bench({"a": net, "b": net}, small_inputs(), forms=["eager"], runs=1, evaluate=evaluate)
    assert [row["ap"] for row in found["rows"]] == [{"segm": 41.0}, {"segm": 42.0}]
    assert "segm AP" in bench_table(found) and "42.0" in bench_table(found)


def test_the_threads_are_as_before_afterwards(net):
    before = torch.get_num_threads()
    found = bench({"net": net}, small_inputs(), forms=["eager"], runs=1, threads=before + 1)
    assert found["threads"] == before + 1 and torch.get_num_threads() == before


def test_the_peak_of_memory_is_that_of_the_call():
    megabytes = peak_memory(lambda: torch.ones(25_000_000).sum())
    assert megabytes is None or 90 < megabytes < 150


WRONG = {
    "an unknown form": (dict(forms=["tensorrt"]), "there is no form 'tensorrt': choose among"),
    "no form": (dict(forms=[]), "must each name one"),
    "no runs": (dict(runs=0), "runs must be a whole number"),
    "half an image": (dict(batch_sizes=[0.5]), "batch_sizes must be a whole number"),
    "no threads": (dict(threads=0), "threads must be a whole number"),
    "int8 without images": (dict(forms=["openvino-int8"]), "calibrated on images: pass data="),
}


@pytest.mark.parametrize("arguments, sentence", WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused(net, arguments, sentence):
    with pytest.raises(ConfigError, match=sentence):
        bench({"net": net}, small_inputs(), **arguments)
