"""The table, line by line."""

import copy

from blendprune.report.table import report_table

PRUNED = {
    "flops": {"before": 1_003_200_000, "after": 451_000_000},
    "params": {"before": 13_740_000, "after": 3_880_000},
    "latency_ms": {"before": 38.41, "after": 24.1},
    "wall_s": 21.4,
}
DEMO = {
    **PRUNED,
    "ap": {
        "dense": {"segm": 80.14, "bbox": 85.0},
        "pruned": {"segm": 55.3, "bbox": 60.2},
        "finetuned": {"segm": 79.4, "bbox": 85.6},
    },
    "wall_s": 570.0,
    "threads": 2,
    "device": "cpu",
    "reloaded_identical": True,
}


def _cells(line):
    return line.replace("mask AP", "mask_AP").replace("box AP", "box_AP").split()


def test_a_pruning_report_has_sizes_and_latency_before_and_after():
    lines = report_table(PRUNED).splitlines()
    assert lines[0].split() == ["dense", "pruned", "change"]
    assert lines[2].split() == ["FLOPs", "(M)", "1003.20", "451.00", "0.450"]
    assert lines[3].split() == ["params", "(M)", "13.74", "3.88", "0.282"]
    assert lines[4].split() == ["latency", "(ms)", "38.41", "24.10", "0.627"]
    assert lines[-1] == "21 s"


def test_memory_has_a_row_of_its_own_and_says_what_it_is():
    memory = {"memory_mb": {"before": 69.8429, "after": 34.61}}
    lines = report_table({**PRUNED, **memory}).splitlines()
    assert lines[4].split() == ["memory", "(MB)", "69.84", "34.61", "0.496"]
    assert lines[-2].startswith("memory: peak of the activation tensors that are alive together")
    lines = report_table({**DEMO, **memory}).splitlines()
    assert lines[4].split() == ["memory", "(MB)", "69.84", "34.61", "34.61", "0.496"]
    assert "memory" not in report_table(PRUNED)


def test_every_other_form_has_a_latency_of_its_own():
    forms = {"eager": PRUNED["latency_ms"], "deployed": {"before": 30.0, "after": 15.0}}
    lines = report_table({**PRUNED, "latency_ms_by_form": forms}).splitlines()
    assert lines[4].split() == ["latency", "(ms)", "38.41", "24.10", "0.627"]
    assert lines[5].split() == ["latency,", "deployed", "(ms)", "30.00", "15.00", "0.500"]
    assert "eager" not in "".join(lines)


def test_the_demo_report_has_the_ap_of_every_stage_and_its_difference():
    lines = report_table(DEMO).splitlines()
    assert lines[0].split() == ["dense", "pruned", "fine-tuned", "change"]
    assert _cells(lines[5]) == ["mask_AP", "80.1", "55.3", "79.4", "-0.7"]
    assert _cells(lines[6]) == ["box_AP", "85.0", "60.2", "85.6", "+0.6"]
    assert lines[-1] == "2 threads on cpu; 9.5 min in all; reloaded in a new process: identical"


def test_the_rounding_of_the_widths_is_named():
    rounding = {"multiple": 16, "auto": True, "reason": "AVX-512, float32"}
    lines = report_table({**DEMO, "round_to": rounding}).splitlines()
    assert lines[-2] == "widths: multiples of 16 (auto: AVX-512, float32)"
    assert "widths" not in report_table(DEMO)


def test_a_model_that_was_pruned_before_is_not_called_dense():
    reference = {"weights": "one/model_pruned.pth", "flops": 0.7, "params": 0.3}
    lines = report_table({**PRUNED, "relative_to": reference}).splitlines()
    assert lines[0].split() == ["before", "pruned", "change"]
    assert lines[-2] == (
        "before: the model at one/model_pruned.pth (already pruned: 0.700 of the dense one's FLOPs)"
    )
    dense = report_table({**PRUNED, "relative_to": {**reference, "flops": 1.0, "params": 1.0}})
    assert dense == report_table(PRUNED)


def test_outputs_that_differ_after_reloading_are_not_hidden():
    assert "reloaded in a new process: DIFFERENT" in report_table(
        {**DEMO, "reloaded_identical": False}
    )


def test_large_models_are_shown_in_g_and_small_ones_in_k():
    report = {
        "flops": {"before": 12_540_000_000, "after": 3_860_000_000},
        "params": {"before": 40_000, "after": 10_000},
    }
    table = report_table(report)
    assert "FLOPs (G)" in table and "12.54" in table
    assert "params (k)" in table and "40.00" in table


def test_notes_follow_the_table():
    assert report_table({**PRUNED, "notes": ["stem kept: ignored"]}).endswith(
        "- stem kept: ignored"
    )


def test_the_report_is_left_as_it_was():
    given = copy.deepcopy(DEMO)
    report_table(given)
    assert given == DEMO
