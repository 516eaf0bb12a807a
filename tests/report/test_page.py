"""The page: whole in one file, true to the report, and well-formed."""

import re
from html.parser import HTMLParser

import pytest

from blendprune.report.page import Comparison, flops_by_stage, prune_page, summary

REPORT = {
    "flops": {"before": 1_000_000_000, "after": 450_000_000},
    "params": {"before": 10_000_000, "after": 3_000_000},
    "activations": {"before": 800_000, "after": 500_000},
    "memory_mb": {"before": 69.8, "after": 35.0},
    "latency_ms": {"before": 38.4, "after": 24.1},
    "latency_ms_by_form": {
        "eager": {"before": 38.4, "after": 24.1},
        "deployed": {"before": 30.0, "after": 15.0},
    },
    "layers": {f"backbone.conv{i}": {"before": 64, "after": 32 - i} for i in range(12)},
    "flops_by_module": {
        "backbone.stem.conv": {"before": 100_000_000, "after": 80_000_000},
        "backbone.body.a": {"before": 300_000_000, "after": 100_000_000},
        "backbone.body.b": {"before": 300_000_000, "after": 120_000_000},
        "head.tower.0": {"before": 299_000_000, "after": 149_000_000},
        "": {"before": 1_000_000, "after": 1_000_000},
    },
    "notes": ["backbone.stem.conv: all 64 channels stay: <asked for>"],
    "round_to": {"multiple": 16, "auto": True, "reason": "AVX-512, float32"},
    "relative_to": {"weights": "dense.pth", "flops": 1.0, "params": 1.0},
    "threads": 2,
    "device": "cpu",
    "wall_s": 90.0,
    "ap": {"dense": {"segm": 36.6, "bbox": 40.0}, "pruned": {"segm": 36.1, "bbox": 39.0}},
}
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Parses a page, and refuses elements that are not closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def values(self, attribute):
        return [each[attribute] for _, each in self.tags if each.get(attribute)]


def page_of(*args, **kwargs):
    return Page(prune_page(*args, **kwargs))


def test_the_page_has_every_number_of_the_report():
    page = page_of({"pruned": REPORT}, commands=[("Go on:", "blendprune export a.pth")])
    for words in ("45% of the FLOPs", "30% of the parameters", "50% of the time (deployed)"):
        assert words in page.text
    for words in ("mask AP 36.6 → 36.1", "multiples of 16", "<asked for>", "export a.pth"):
        assert words in page.text
    for i, each in enumerate(REPORT["layers"].values()):
        assert f"backbone.conv{i}: 64 → {each['after']} channels" in page.text
    assert "deployed, pruned: 15 ms" in page.text and "memory, pruned: 50.14 %" in page.text


def test_the_page_needs_no_network_and_no_other_file():
    picture = "data:image/jpeg;base64,AAAA"
    page = page_of({"pruned": REPORT}, [Comparison(picture, picture, "3 objects, 2")])
    assert page.values("src") == [picture, picture]
    assert not [x for x in page.values("href") if not x.startswith("#")]
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert "url(" not in page.text.replace("url(#", "")
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    pointed_at = [x[1:] for x in page.values("href")]
    pointed_at += [x[5:-1] for x in page.values("clip-path")]
    assert pointed_at and set(pointed_at) <= set(ids)


def test_colours_follow_the_page():
    text = prune_page({"pruned": REPORT})
    svg = "".join(re.findall("<svg.*?</svg>", text, re.S))
    assert "var(--series-0)" in svg and "var(--ink)" in svg
    # matplotlib's own black would be invisible at night.
    assert not re.search("#(?!ffffff)[0-9a-f]{6}", re.sub('["(]#[^")]*[-][^")]*[")]', "", svg))


def test_names_from_files_are_text():
    name = "<script>alert(1)</script>"
    report = {**REPORT, "layers": {name: {"before": 4, "after": 2}}, "notes": [name]}
    page = page_of({name: report}, commands=[(name, name)])
    assert page.text.count(name) >= 5
    assert "script" not in {tag for tag, _ in page.tags}


def test_several_models_make_a_curve():
    flops = {"before": 1_000_000_000, "after": 700_000_000}
    first = {**REPORT, "flops": flops, "ap": {"dense": {"segm": 36.6}, "pruned": {"segm": 36.5}}}
    assert "AP over FLOPs" not in page_of({"0.5": REPORT}).text
    page = page_of({"0.7": first, "0.5": REPORT})
    assert "0.7: 0.7 G, AP 36.5" in page.text and "0.5: 0.45 G, AP 36.1" in page.text
    assert "dense: 1 G, AP 36.6" in page.text and "0.5: 15 ms, AP 36.1" in page.text
    without = {key: value for key, value in first.items() if key != "ap"}
    assert "AP over FLOPs" not in page_of({"0.7": without, "0.5": REPORT}).text


def test_a_line_joins_models_of_one_pruning_alone():
    flops = {"before": 1_000_000_000, "after": 700_000_000}
    reports = {"pruned": {**REPORT, "flops": flops}, "tuned": REPORT}
    joined, apart = (
        prune_page(reports, joined=each).split("AP over FLOPs")[1].split("<svg")[1]
        for each in (True, False)
    )
    # A line has the id that matplotlib gives it; marks have the words that they are hovered for.
    assert joined.count("<path") > apart.count("<path")
    assert "tuned</" in apart and "tuned</" not in joined


def test_all_models_are_in_a_table():
    page = page_of({"first": REPORT, "second": {**REPORT, "ap": {}}})
    assert "All models" in page.text and "All models" not in page_of({"first": REPORT}).text
    sizes = "45.0% 30.0% 50.0% (deployed)"
    assert f"first {sizes} 36.6 → 36.1" in page.text and f"second {sizes}" in page.text


def test_the_last_stage_is_named():
    tuned = {**REPORT, "ap": {**REPORT["ap"], "finetuned": {"segm": 37.0, "bbox": 40.5}}}
    page = page_of({"demo": tuned}, [Comparison("data:,", "data:,", "")])
    assert "mask AP 36.6 → 37.0" in page.text and "mask AP, fine-tuned: 37" in page.text
    assert "The same images, dense and fine-tuned" in page.text
    assert (
        "The same images, dense and pruned"
        in page_of({"pruned": REPORT}, [Comparison("data:,", "data:,", "")]).text
    )


def test_a_report_of_sizes_alone_is_a_page():
    sizes = {key: REPORT[key] for key in ("flops", "params")}
    assert "45% of the FLOPs" in page_of({"pruned": sizes}).text
    assert summary(sizes) == "45% of the FLOPs and 30% of the parameters are left."


def test_stages_add_up_and_large_ones_are_split():
    stages = flops_by_stage(REPORT["flops_by_module"])
    assert stages["backbone.body.a"] == [0.3, 0.1]
    assert {"backbone.stem", "head.tower.0"} <= stages.keys()
    assert sum(before for before, _ in stages.values()) == pytest.approx(1.0)
    one = flops_by_stage({"conv": {"before": 10, "after": 5}})
    assert one == {"conv": [1e-8, 5e-9]}
