"""The picture: a row per model, a column per image."""

import numpy as np
import torch
from detectron2.data import Metadata
from PIL import Image

from blendprune.demo.picture import detections_picture


def _found(score):
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 10:40, 20:50] = True
    return {
        "boxes": torch.tensor([[20.0, 10.0, 50.0, 40.0]]),
        "scores": torch.tensor([score]),
        "classes": torch.tensor([3]),
        "masks": mask,
    }


def test_only_detections_above_the_score_are_drawn(tmp_path):
    images = [torch.full((3, 64, 64), 100, dtype=torch.uint8)] * 2
    metadata = Metadata(name="ten", thing_classes=[str(digit) for digit in range(10)])
    path = tmp_path / "picture.png"
    rows = {"sure": [_found(0.9)] * 2, "unsure": [_found(0.1)] * 2}
    detections_picture(str(path), images, rows, metadata)
    sheet = np.asarray(Image.open(path))
    height, width = sheet.shape[:2]
    assert width == 2 * 128 + 3 * 4
    blank = [(row == 100).all(-1).mean() for row in (sheet[22:150], sheet[172:300])]
    assert blank[0] < 0.9 < blank[1] <= 1
