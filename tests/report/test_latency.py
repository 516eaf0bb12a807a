"""When a report says that the latency does not follow the FLOPs."""

import pytest

from blendprune.report.latency import latency_words
from blendprune.report.page import facts, summary
from blendprune.report.table import report_table
from tests.docs import DOCS


def report(flops, **latencies):
    return {
        "flops": {"before": 100, "after": flops},
        "params": {"before": 100, "after": 50},
        "latency_ms_by_form": {
            form: {"before": 200.0, "after": after} for form, after in latencies.items()
        },
    }


FOLLOWS = {
    "as fast as the FLOPs say": report(50, eager=100.0),
    "half of what the FLOPs save": report(50, eager=150.0),
    "the fastest form follows": report(50, eager=199.0, deployed=120.0),
    "nothing was timed": report(50),
}


@pytest.mark.parametrize("found", FOLLOWS.values(), ids=FOLLOWS)
def test_nothing_is_said_where_the_latency_follows(found):
    assert latency_words(found) == ""


def test_the_form_that_ships_counts_not_the_one_that_gained_most():
    found = report(50, eager=100.0)
    found["latency_ms_by_form"]["deployed"] = {"before": 92.0, "after": 90.0}
    assert "0.98 of the latency (deployed)" in latency_words(found)
    assert "98% of the time (deployed)" in summary(found)


def test_a_latency_that_hardly_falls_is_said_under_the_table_and_on_the_page():
    found = report(50, eager=196.0, deployed=192.0)
    words = latency_words(found)
    assert words.startswith("0.50 of the FLOPs are left, but 0.96 of the latency (deployed): ")
    assert words in report_table(found).splitlines() and words in facts(found)
    row = words.split('"')[1]
    assert f"| {row} |" in (DOCS / "troubleshooting.md").read_text()
