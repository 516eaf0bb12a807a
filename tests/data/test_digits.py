"""Digit scenes: what is drawn, what is written, and what detectron2 makes of it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from blendprune.data import digits
from blendprune.data.digits import register_digits, write_digits
from blendprune.data.scenes import draw_scene, split_scans
from blendprune.errors import ConfigError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits") / "small", num_train=12, num_test=6)


@pytest.fixture
def registered(root):
    register_digits(root)
    yield root
    for name in (digits.DIGITS_TRAIN, digits.DIGITS_TEST):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _scene(index, size=128):
    return draw_scene(split_scans()[0], np.random.default_rng([0, 1, index]), size)


def _files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def _annotations(folder, split):
    return json.loads((Path(folder) / "annotations" / f"{split}.json").read_text())


def test_test_scenes_show_none_of_the_handwriting_in_training_scenes(root):
    train, test = (
        {a["scan"] for a in _annotations(root, s)["annotations"]} for s in ("train", "test")
    )
    assert train and test and not train & test


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(root, tmp_path):
    again = write_digits(tmp_path / "again", num_train=12, num_test=6)
    other = write_digits(tmp_path / "other", num_train=12, num_test=6, seed=1)
    assert _files(again) == _files(root)
    assert _files(other)["train/000001.png"] != _files(root)["train/000001.png"]


def test_a_larger_set_begins_with_the_smaller_one(root, tmp_path):
    larger = _files(write_digits(tmp_path / "larger", num_train=14, num_test=6))
    assert larger["train/000012.png"] == _files(root)["train/000012.png"]


def test_boxes_areas_and_masks_agree(root):
    for record in _annotations(root, "train")["annotations"]:
        mask = mask_utils.decode(record["segmentation"])
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, width, height = record["bbox"]
        assert (x, y) == (columns[0], rows[0])
        assert (x + width, y + height) == (columns[-1] + 1, rows[-1] + 1)
        assert record["area"] == mask.sum()


def test_written_annotations_are_the_drawn_scene(root):
    records = [a for a in _annotations(root, "train")["annotations"] if a["image_id"] == 1]
    scene = _scene(0)
    masks = np.stack([mask_utils.decode(record["segmentation"]) for record in records])
    assert (masks == scene.masks).all()
    assert [record["category_id"] - 1 for record in records] == scene.labels.tolist()
    assert (np.asarray(Image.open(Path(root, "train", "000001.png"))) == scene.image).all()


def test_pycocotools_reads_the_annotations(root):
    coco = COCO(str(Path(root, "annotations", "test.json")))
    assert len(coco.getImgIds()) == 6
    assert [category["name"] for category in coco.cats.values()] == [str(d) for d in range(10)]
    annotation = coco.loadAnns(coco.getAnnIds(imgIds=1))[0]
    assert coco.annToMask(annotation).sum() == annotation["area"]


def test_registering_twice_is_once_and_another_folder_replaces_the_first(registered, tmp_path):
    register_digits(registered)
    assert len(DatasetCatalog.get("digits_train")) == 12
    register_digits(write_digits(tmp_path / "other", num_train=2, num_test=1))
    assert len(DatasetCatalog.get("digits_train")) == 2
    assert MetadataCatalog.get("digits_test").thing_classes == [str(d) for d in range(10)]


def test_the_truth_given_as_predictions_scores_100(registered):
    records = DatasetCatalog.get("digits_test")
    evaluator = COCOEvaluator("digits_test", tasks=("bbox", "segm"), use_fast_impl=False)
    evaluator.reset()
    for record in records:
        size = record["height"], record["width"]
        instances = Instances(size)
        given = record["annotations"]
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in given]
        instances.pred_boxes = Boxes(torch.tensor(boxes))
        instances.pred_classes = torch.tensor([a["category_id"] for a in given])
        instances.scores = torch.ones(len(given))
        masks = np.stack([mask_utils.decode(a["segmentation"]) for a in given])
        instances.pred_masks = torch.from_numpy(masks).bool()
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)


def test_an_interrupted_run_leaves_no_folder_and_the_next_one_completes_it(
    root, tmp_path, monkeypatch
):
    drawn = []

    def interrupted(*args):
        drawn.append(args)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        return draw_scene(*args)

    monkeypatch.setattr(digits, "draw_scene", interrupted)
    folder = tmp_path / "digits"
    with pytest.raises(KeyboardInterrupt):
        write_digits(folder, num_train=12, num_test=6)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    monkeypatch.undo()
    assert _files(write_digits(folder, num_train=12, num_test=6)) == _files(root)


def test_what_a_killed_run_left_behind_is_cleared_away(root, tmp_path):
    left = tmp_path / ".digits.partial"
    (left / "train").mkdir(parents=True)
    (left / "train" / "stale.png").write_text("half a picture")
    assert _files(write_digits(tmp_path / "digits", num_train=12, num_test=6)) == _files(root)
    assert not left.exists()


def test_writing_what_is_there_already_touches_nothing(root):
    before = {path: os.stat(path).st_mtime_ns for path in Path(root).rglob("*")}
    write_digits(root, num_train=12, num_test=6)
    assert before == {path: os.stat(path).st_mtime_ns for path in Path(root).rglob("*")}


def test_a_folder_with_other_scenes_or_other_files_is_refused_and_kept(root, tmp_path):
    with pytest.raises(ConfigError, match="choose another folder or delete"):
        write_digits(root, num_train=13, num_test=6)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="holds no digit scenes"):
        write_digits(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write digit scenes to .*file/digits"):
        write_digits(tmp_path / "file" / "digits")


@pytest.mark.parametrize("bad", [{"num_test": 0}, {"image_size": 8}, {"layout": "voc"}])
def test_arguments_that_cannot_hold_are_refused(tmp_path, bad):
    with pytest.raises(ConfigError):
        write_digits(tmp_path / "digits", **bad)


def test_registering_a_folder_without_scenes_says_what_to_call(tmp_path):
    with pytest.raises(ConfigError, match="call write_digits"):
        register_digits(tmp_path)


def test_the_coco_layout_fits_detectron2s_builtin_metadata(tmp_path):
    folder = Path(write_digits(tmp_path, num_train=3, num_test=2, layout="coco"))
    assert folder == tmp_path / "coco"
    name = "digits_as_coco_2017_train"
    # As builtin.py registers coco_2017_train: loading asserts that the class names agree.
    MetadataCatalog.get(name).set(**_get_builtin_metadata("coco"))
    try:
        json_file = str(folder / "annotations" / "instances_train2017.json")
        records = load_coco_json(json_file, str(folder / "train2017"), name)
    finally:
        MetadataCatalog.remove(name)
    assert len(records) == 3
    labels = [a["category_id"] for a in records[0]["annotations"]]
    assert labels == _scene(0).labels.tolist()
    semantic = np.load(folder / "thing_train2017" / "000001.npz")["mask"]
    assert set(np.unique(semantic)) == {0, *(label + 1 for label in labels)}
