"""The report of a pruning: as data, and as a table."""

import json
import re

from blendprune.pruning.search.result import PruningReport, pruning_table


def report(**values):
    sizes = {
        "flops": {"before": 12_540_000_000, "after": 3_860_000_000},
        "params": {"before": 32_300_000, "after": 8_900},
        "activations": {"before": 9_960_000, "after": 4_987_000},
        "layers": {"stem": {"before": 64, "after": 32}, "head": {"before": 5, "after": 5}},
    }
    return PruningReport(**{**sizes, **values})


def test_the_table_has_totals_and_the_layers_that_changed():
    lines = pruning_table(report()).replace(" %", "%").splitlines()[2:]
    found = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert found == [
        ["FLOPs (M)", "12540", "3860", "31%"],
        ["params (k)", "32300", "8.9", "0%"],
        ["activations (M)", "9.96", "4.99", "50%"],
        ["stem", "64", "32", "50%"],
    ]


def test_a_latency_has_a_row_of_its_own():
    table = pruning_table(report(latency_ms={"before": 38.414, "after": 9.126}, runtime="eager"))
    [row] = [line for line in table.splitlines() if line.startswith("latency")]
    assert row.split() == ["latency", "(ms,", "eager)", "38", "9.13", "24", "%"]


def test_memory_has_a_row_of_its_own_and_says_what_it_is():
    table = pruning_table(report(memory_mb={"before": 79.84, "after": 31.2}))
    [row] = [line for line in table.splitlines() if line.startswith("memory (MB)")]
    assert row.split() == ["memory", "(MB)", "80", "31", "39", "%"]
    last = table.splitlines()[-1]
    assert last.startswith("memory: peak of the activation tensors that are alive together in one")
    assert "memory" not in pruning_table(report())


def test_numbers_of_two_digits_are_whole():
    table = pruning_table(report(flops={"before": 10_400_000, "after": 10_000_000}))
    [row] = [line for line in table.splitlines() if line.startswith("FLOPs")]
    assert row.split() == ["FLOPs", "(M)", "10", "10", "96", "%"]


def test_what_was_nothing_has_no_share():
    table = pruning_table(report(activations={"before": 0, "after": 0}))
    [row] = [line for line in table.splitlines() if line.startswith("activations")]
    assert row.split() == ["activations", "(M)", "0", "0"]


def test_a_report_is_plain_data():
    found = report(notes=["one"]).to_dict()
    assert found["flops"] == {"before": 12_540_000_000, "after": 3_860_000_000}
    assert found["layers"]["stem"] == {"before": 64, "after": 32}
    assert (found["notes"], found["wall_s"], found["latency_ms"]) == (["one"], 0.0, {})
    assert json.loads(json.dumps(found)) == found
