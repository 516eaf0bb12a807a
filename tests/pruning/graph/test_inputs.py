"""Inputs to trace a model with."""

import pytest
import torch
from torch import nn

from blendprune import structure
from blendprune.errors import ConfigError
from blendprune.pruning.graph.inputs import config_inputs, example_inputs_for, small_inputs

IMAGE = torch.zeros(3, 4, 4)


def test_given_inputs_come_first():
    given = [{"image": IMAGE}]
    assert example_inputs_for(nn.Linear(1, 1), given, [[{"image": 1}]]) == given
    assert example_inputs_for(nn.Linear(1, 1), {"image": IMAGE}) == given
    assert example_inputs_for(nn.Linear(1, 1), (each for each in given)) == given


def test_without_a_config_the_first_image_of_the_data_stands_in():
    batches = [[{"image": IMAGE, "instances": 1}, {"image": 2}], [{"image": 3}]]
    [found] = example_inputs_for(nn.Linear(1, 1), None, batches)
    assert list(found) == ["image"] and found["image"] is IMAGE


def test_the_image_of_a_config_has_its_size_and_channels(blendmask_cfg):
    model = nn.Linear(1, 1)
    assert config_inputs(model) is None
    structure.remember(model, blendmask_cfg("MODEL.PIXEL_MEAN", [1.0], "INPUT.MIN_SIZE_TEST", 40))
    for [found] in (config_inputs(model), example_inputs_for(model, None, [[{"image": 1}]])):
        image = found["image"]
        assert image.shape == (1, 40, 40)
        assert 0 <= image.min() < 10 and 245 < image.max() <= 255
    assert torch.equal(config_inputs(model)[0]["image"], image)


@pytest.mark.parametrize(
    "sizes, side",
    [
        (("MIN_SIZE_TEST", 0, "MIN_SIZE_TRAIN", (48, 64)), 64),
        (("MIN_SIZE_TEST", 0, "MIN_SIZE_TRAIN", (0,)), 800),
        (("MIN_SIZE_TEST", 0, "MIN_SIZE_TRAIN", (640,), "MAX_SIZE_TEST", 96), 96),
        (("MIN_SIZE_TEST", 64, "MAX_SIZE_TEST", 32), 32),
        (("MIN_SIZE_TEST", 64, "MAX_SIZE_TEST", 0), 64),
    ],
)
def test_where_the_config_does_not_resize_another_key_gives_the_size(blendmask_cfg, sizes, side):
    model, cfg = nn.Linear(1, 1), blendmask_cfg()
    for key, value in zip(sizes[::2], sizes[1::2]):
        cfg.INPUT[key] = value
    structure.remember(model, cfg)
    assert config_inputs(model)[0]["image"].shape == (3, side, side)


def test_sizes_of_other_types(blendmask_cfg):
    model, cfg = nn.Linear(1, 1), blendmask_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.MODEL.PIXEL_MEAN = (40, 48), [0.0] * 4
    structure.remember(model, cfg)
    assert config_inputs(model)[0]["image"].shape == (4, 48, 48)
    cfg.INPUT.MIN_SIZE_TEST = "40"
    structure.remember(model, cfg)
    with pytest.raises(ConfigError, match="INPUT.MIN_SIZE_TEST is '40': set it to a number of pix"):
        config_inputs(model)


@pytest.mark.parametrize("text", ["MODEL: {}", "INPUT: {}", "INPUT: {MIN_SIZE_TEST: 8}"])
def test_a_config_that_says_nothing_of_images_counts_as_none(text):
    model = nn.Linear(1, 1)
    model.blendprune_config = text
    assert config_inputs(model) is None


def test_no_input_at_all_is_refused():
    with pytest.raises(ConfigError, match="pass example_inputs="):
        example_inputs_for(nn.Linear(1, 1))


@pytest.mark.parametrize("given", [5, [], [IMAGE], [{"picture": IMAGE}], [{"image": IMAGE}, 3]])
def test_what_is_no_input_is_refused(given):
    with pytest.raises(ConfigError, match="example_inputs must be a list of dicts"):
        example_inputs_for(nn.Linear(1, 1), given)


def test_only_a_model_with_a_backbone_sees_a_smaller_image(blendmask):
    given = [{"image": torch.zeros(3, 300, 260), "height": 7}]
    [found] = small_inputs(blendmask(), given)
    assert found["image"].shape == (3, 256, 256) and found["height"] == 7
    assert small_inputs(nn.Linear(1, 1), given) is given


@pytest.mark.parametrize("image", [3, IMAGE[0], IMAGE[None], IMAGE.numpy(), IMAGE / 0])
def test_an_input_whose_image_is_none_is_refused(image):
    with pytest.raises(ConfigError, match='example_inputs has a.* "image"'):
        example_inputs_for(nn.Linear(1, 1), [{"image": image}])
