"""``blendprune report``: a page about models in files."""

import html
import json

import pytest
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog

import blendprune
from blendprune.__main__ import main
from blendprune.data.digits import DIGITS_TEST
from tests.helpers.digit_scenes import digit_scenes


@pytest.fixture
def models(registered, small_blendmasks, tmp_path, monkeypatch):
    """Files of a dense small BlendMask and of two pruned ones; their test images are there."""
    opts = ("MODEL.FCOS.NUM_CLASSES", 10, "DATASETS.TEST", (DIGITS_TEST,))
    for name, ratio in (("dense", 0), ("half", 0.3), ("third", 0.5)):
        model = small_blendmasks(*opts)
        if ratio:
            blendprune.prune(model, pruning_ratio=ratio, importance="magnitude", rounds=1)
        DetectionCheckpointer(model, str(tmp_path)).save(name)
    monkeypatch.chdir(tmp_path)
    with digit_scenes(tmp_path, num_test=2):
        yield tmp_path
    blendprune.revert()


def test_the_page_compares_all_models_and_shows_the_last(models, capsys):
    command = ["report", "dense.pth", "half.pth", "third.pth", "--ap", "--output", "page.html"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["half", "third"]
    kept = [each["flops"]["after"] / each["flops"]["before"] for each in found.values()]
    assert 0.1 < kept[1] < kept[0] < 1
    third = found["third"]
    weights = sum(p.numel() for p in blendprune.load("third.pth").parameters())
    assert third["params"]["after"] == weights
    assert set(third["ap"]["dense"]) == {"bbox", "segm"} and third["ap"]["pruned"].keys()
    assert set(third["latency_ms_by_form"]) == {"eager", "deployed"}
    assert third["timed_on"] == f"the first image of {DIGITS_TEST}"
    stem = third["layers"]["backbone.bottom_up.stem.conv1"]
    assert stem["before"] == 64 > stem["after"]
    own = third["flops_by_module"]
    assert sum(each["before"] for each in own.values()) == third["flops"]["before"]
    page = (models / "page.html").read_text()
    # Two scenes, each through two models.
    assert page.count("data:image/jpeg") == 4
    assert "AP over FLOPs" in page


def test_the_terminal_has_a_sentence_for_each(models, capsys):
    assert main(["report", "dense.pth", "third.pth"]) == 0
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0].startswith("third: ") and "of the FLOPs" in last[0]
    assert last[1] == "report.html"


def test_a_test_set_that_is_not_registered_is_named_where_its_pictures_would_be(
    models, capsys, caplog, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.delitem(DatasetCatalog.data, DIGITS_TEST)
        assert main(["report", "dense.pth", "third.pth"]) == 0
    page = html.unescape((models / "report.html").read_text())
    assert "data:image/jpeg" not in page
    why = f"the data set '{DIGITS_TEST}' is not registered: register it in a module, and name that"
    assert f"There are no pictures: {why} with --import" in page
    [line] = [each for each in caplog.messages if "no pictures" in each]
    assert line.endswith(f"{why} with --import")
    assert "coco_2017_val" not in "".join([*capsys.readouterr(), caplog.text])


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["dense.pth"], "give the dense one first, then pruned ones"),
        (["dense.pth", "none.pth"], "none.pth"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(models, capsys, command, sentence):
    assert main(["report", *command]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (models / "report.html").exists()
