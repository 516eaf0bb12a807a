"""Pictures of what two models find."""

import base64
import io

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from blendprune.report.images import compare_images, outputs_of


def detector(*objects, masks=False):
    """A model that finds boxes: (x, y, score, class) of 20 by 20 pixels, whatever the image."""

    def run(batched_inputs):
        found = Instances(batched_inputs[0]["image"].shape[-2:])
        x, y, scores, classes = torch.tensor(objects, dtype=torch.float).reshape(-1, 4).T
        found.pred_boxes = Boxes(torch.stack([x, y, x + 20, y + 20], 1))
        found.scores, found.pred_classes = scores, classes.long()
        if masks:
            found.pred_masks = torch.zeros(len(found), *found.image_size, dtype=torch.bool)
            for mask, left, top in zip(found.pred_masks, x.long(), y.long()):
                mask[top : top + 20, left : left + 20] = True
        return [{"instances": found}]

    return run


def compared(cfg, models, images):
    return compare_images(cfg, images, *(outputs_of(model, images) for model in models))


def pixels(address):
    kind, data = address.split(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def red(picture):
    """Number of pixels that are as red as a mark."""
    r, g, b = picture[..., 0], picture[..., 1], picture[..., 2]
    return int(((r > 150) & (g < 80) & (b < 80)).sum())


GRAY = torch.full((3, 64, 96), 128.0)
# What each model finds; objects of the dense one, and what is lost and new.
HERE, THERE, OTHER = (5, 5, 0.9, 0), (40, 5, 0.9, 0), (5, 5, 0.9, 1)
CASES = [
    ([HERE], [(6, 5, 0.8, 0)], 1, 0, 0),
    ([HERE], [THERE], 1, 1, 1),
    ([HERE], [OTHER], 1, 1, 1),
    ([HERE, (40, 5, 0.1, 0)], [], 1, 1, 0),
    ([], [], 0, 0, 0),
]


@pytest.mark.parametrize(("dense", "pruned", "number", "lost", "new"), CASES)
def test_what_only_one_model_finds_is_counted_and_marked(dense, pruned, number, lost, new):
    models = detector(*dense), detector(*pruned)
    [found] = compared(get_cfg(), models, [GRAY])
    assert found.words.startswith(f"{number} objects")
    assert f"{lost} of the first are lost, {new} of the second are new" in found.words
    with_mask = [detector(*each, masks=True) for each in (dense, pruned)]
    [drawn] = compared(get_cfg(), with_mask, [GRAY])
    assert drawn.words == found.words
    sides = pixels(found.dense), pixels(found.pruned)
    assert all(side.shape[1] == 640 for side in sides)
    marked = [red(side) > 100 for side in sides]
    assert marked == [lost > 0, new > 0]


def test_channels_are_in_the_order_of_the_config():
    image = torch.zeros(3, 16, 16)
    image[0] = 255  # blue in BGR
    cfg = get_cfg()
    nothing = detector(), detector()
    [found] = compared(cfg, nothing, [image])
    assert pixels(found.dense)[..., 2].mean() > 200 > 50 > pixels(found.dense)[..., 0].mean()
    cfg.INPUT.FORMAT = "RGB"
    [found] = compared(cfg, nothing, [image])
    assert pixels(found.dense)[..., 0].mean() > 200


def test_semantic_maps_are_compared_pixel_by_pixel():
    def model(split):
        scores = torch.zeros(2, 64, 96)
        scores[1, :, split:] = 1
        return lambda batched_inputs: [{"sem_seg": scores}]

    cfg = get_cfg()
    [found] = compared(cfg, (model(48), model(24)), [GRAY])
    assert found.words.startswith("75.0%")


def test_what_cannot_be_drawn_is_left_out():
    def model(batched_inputs):
        return [{"features": torch.zeros(1)}]

    assert compared(get_cfg(), (model, model), [GRAY]) == []


@pytest.fixture
def red_classes():
    """A config whose data set has given its 20 classes names, and a mark's colour."""
    name = "red_classes"
    names = [f"class {i}" for i in range(20)]
    MetadataCatalog.get(name).set(thing_classes=names, thing_colors=[(217, 25, 25)] * 20)
    cfg = get_cfg()
    cfg.DATASETS.TEST = (name,)
    yield cfg
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("number", range(20))
def test_no_class_can_be_taken_for_a_mark(red_classes, number, masks):
    model = detector((5, 5, 0.9, number), (60, 30, 0.9, number), masks=masks)
    [found] = compared(red_classes, (model, model), [GRAY])
    assert red(pixels(found.dense)) == 0
    assert (pixels(found.dense) != pixels(found.dense)[0, 0]).any()


@pytest.mark.parametrize("masks", [True, False])
def test_the_label_of_a_mark_is_drawn_last_and_away_from_others(red_classes, masks, monkeypatch):
    labels, draw = {}, Visualizer.draw_text

    def record(self, text, position, **how):
        labels[text] = position
        return draw(self, text, position, **how)

    monkeypatch.setattr(Visualizer, "draw_text", record)
    # The same object with a second class below it, as detectors give it.
    known, double = (40, 30, 0.75, 1), (40, 30, 0.61, 4)
    models = detector(known, masks=masks), detector(double, known, masks=masks)
    [found] = compared(red_classes, models, [GRAY])
    assert [red(pixels(side)) > 100 for side in (found.dense, found.pruned)] == [False, True]
    assert list(labels) == ["class 1 75%", "class 4 61%"]
    assert labels["class 4 61%"][1] < 30 <= labels["class 1 75%"][1]


def test_a_mark_does_not_hide_the_colour_of_what_both_models_find(red_classes):
    known, double = (40, 30, 0.75, 0), (40, 30, 0.61, 4)
    alone, under = (
        compared(red_classes, (detector(known, masks=True), detector(*pruned, masks=True)), [GRAY])
        for pruned in ([known], [known, double])
    )
    # The box is from (40, 30) to (60, 50), in a picture of 640 instead of 96 pixels.
    inside = slice(int(35 * 640 / 96), int(42 * 640 / 96)), slice(int(45 * 640 / 96), 350)
    mean = [pixels(found.pruned)[inside].mean((0, 1)) for [found] in (alone, under)]
    assert mean[0].argmax() == mean[1].argmax() == 2  # blue
