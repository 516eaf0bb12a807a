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


def test_no_input_at_all_is_refused():
    with pytest.raises(ConfigError, match="pass example_inputs="):
        example_inputs_for(nn.Linear(1, 1))


@pytest.mark.parametrize("given", [[], [IMAGE], [{"picture": IMAGE}], [{"image": IMAGE}, 3]])
def test_what_is_no_input_is_refused(given):
    with pytest.raises(ConfigError, match="example_inputs must be a list of dicts"):
        example_inputs_for(nn.Linear(1, 1), given)


def test_only_a_model_with_a_backbone_sees_a_smaller_image(blendmask):
    given = [{"image": torch.zeros(3, 300, 260), "height": 7}]
    [found] = small_inputs(blendmask(), given)
    assert found["image"].shape == (3, 256, 256) and found["height"] == 7
    assert small_inputs(nn.Linear(1, 1), given) is given
