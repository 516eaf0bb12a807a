"""Pictures without labels: the model's own detections come back as labels of the training."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from blendprune.config import add_prune_config
from blendprune.data.pseudo_labels import batches_of_pictures
from blendprune.errors import ConfigError


class Detector(nn.Module):
    """Finds one square in the red channel of a picture, its class being its brightness / 100."""

    def forward(self, batched_inputs):
        [given] = batched_inputs
        red = given["image"][2]
        found = Instances((given["height"], given["width"]))
        inside = red > 50
        rows, columns = inside.nonzero().unbind(1)
        some = len(rows) > 0
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if some else []
        found.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float).reshape(-1, 4))
        # The second detection is too weak to be a label.
        found.scores = torch.tensor([0.9] * some)
        found.pred_classes = torch.tensor([int(red.max()) // 100] * some, dtype=torch.long)
        found.pred_masks = inside[None][: int(some)]
        points = [[columns.float().mean() + 0.5, rows.float().mean() + 0.5, 0.3]] if some else []
        found.pred_keypoints = torch.tensor(points).reshape(-1, 1, 3)
        sem_seg = torch.stack([~inside, inside]).float()
        both = Instances.cat([found, found])
        both.scores[len(found) :] = 0.1
        return [{"instances": both, "sem_seg": sem_seg}]


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    add_prune_config(cfg)
    cfg.MODEL.DEVICE, cfg.DATASETS.TRAIN = "cpu", ("elsewhere",)
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.MIN_SIZE_TRAIN = cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.PRUNER.CALIBRATION_IMAGES = 1, 2
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.PRUNER.IMAGE_FOLDER = str(tmp_path)
    MetadataCatalog.get("elsewhere").set(keypoint_names=["middle"], keypoint_flip_map=[])
    yield cfg
    MetadataCatalog.remove("elsewhere")


def paint(path, left, top, brightness=120, size=8):
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[top : top + size, left : left + size, 0] = brightness
    Image.fromarray(picture).save(path)


def test_labels_are_what_the_model_finds(cfg, tmp_path):
    paint(tmp_path / "a.png", 4, 6)
    (tmp_path / "below").mkdir()
    paint(tmp_path / "below" / "b.PNG", 20, 10, 220)
    (tmp_path / "notes.txt").write_text("no picture")
    batches = batches_of_pictures(cfg, Detector())
    found = {int(x["instances"].gt_classes): x for [x] in batches}
    assert sorted(found) == [1, 2]
    for number, (left, top) in ((1, (4, 6)), (2, (20, 10))):
        labels = found[number]["instances"]
        assert labels.gt_boxes.tensor.tolist() == [[left, top, left + 8, top + 8]]
        [mask] = labels.gt_masks.tensor
        assert torch.equal(mask, found[number]["image"][2] > 50) and mask.sum() == 64
        assert torch.equal(found[number]["sem_seg"], mask.long())
        assert labels.gt_keypoints.tensor.tolist() == [[[left + 4, top + 4, 2]]]
    assert "blendprune_pseudo_labels" not in DatasetCatalog.list()


def test_pictures_are_taken_evenly_and_empty_ones_left_out(cfg, tmp_path):
    for i in range(8):
        paint(tmp_path / f"{i}.png", i, 0, brightness=0 if i == 4 else 120)
    cfg.PRUNER.CALIBRATION_IMAGES = 4
    batches = batches_of_pictures(cfg, Detector())
    names = sorted(x["file_name"][-5] for [x] in batches)
    assert names == ["0", "2", "6"]


def test_a_folder_without_pictures_is_refused(cfg):
    with pytest.raises(ConfigError, match="PRUNER.IMAGE_FOLDER: there are no pictures in"):
        batches_of_pictures(cfg, Detector())


def test_a_broken_picture_is_named(cfg, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(
        ConfigError, match=r"PRUNER.IMAGE_FOLDER: '.*a.png' cannot be read .*: remove it"
    ):
        batches_of_pictures(cfg, Detector())


def test_pictures_in_which_nothing_is_found_are_refused(cfg, tmp_path):
    paint(tmp_path / "a.png", 0, 0, brightness=0)
    with pytest.raises(ConfigError, match="finds nothing of a score of 0.4 or more in the 1 pict"):
        batches_of_pictures(cfg, Detector())


def test_a_model_that_learns_from_more_than_it_predicts_is_refused(cfg):
    cfg.MODEL.META_ARCHITECTURE = "PanopticDeepLab"
    with pytest.raises(ConfigError, match="PanopticDeepLab learns from more than it predicts"):
        batches_of_pictures(cfg, Detector())
