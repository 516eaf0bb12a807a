"""The registry of architectures: who matches a model, and what users may register."""

import pytest
import torch
from torch import nn

from blendprune.errors import ConfigError
from blendprune.pruning import Architecture, Stage, head_outputs, register_architecture
from blendprune.pruning.architectures import ARCHITECTURES, architecture_of
from blendprune.pruning.architectures.pointrend import PointRend


class Model(nn.Module):
    def forward(self, batched_inputs):
        return [x["image"].sum() for x in batched_inputs]


@pytest.fixture
def registered():
    """A function that registers a class for one test."""
    names = []

    def register(cls):
        names.append(cls.__name__)
        return register_architecture(cls)

    yield register
    for name in names:
        ARCHITECTURES._obj_map.pop(name, None)


def test_a_model_that_nobody_knows_runs_as_a_whole():
    model, images = Model(), [{"image": torch.rand(3, 8, 8)}]
    architecture = architecture_of(model)
    assert type(architecture) is Architecture and architecture.model is model
    [stage] = architecture.stages(images)
    assert stage.count == 1 and stage.run(1) is None
    assert architecture.prediction_heads() == []


def test_the_class_registered_last_counts(registered):
    @registered
    class First(Architecture):
        @classmethod
        def matches(cls, model):
            return isinstance(model, Model)

    assert type(architecture_of(Model())) is First

    @registered
    class Second(First):
        pass

    assert type(architecture_of(Model())) is Second
    assert type(architecture_of(nn.Identity())) is Architecture


def test_a_class_that_is_no_architecture_is_refused():
    with pytest.raises(ConfigError, match="pass a subclass of blendprune.Architecture"):
        register_architecture(Model)
    with pytest.raises(ConfigError, match="pass a subclass of blendprune.Architecture"):
        register_architecture(Architecture(Model()))


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ConfigError, match="'PointRend' is registered already: rename the class"):
        register_architecture(type("PointRend", (Architecture,), {}))
    assert ARCHITECTURES.get("PointRend") is PointRend


def test_dummy_labels_fill_the_image():
    labels = Architecture(Model()).dummy_labels(torch.rand(3, 40, 60))
    instances = labels["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 60, 40]]
    assert instances.gt_masks.tensor.all() and instances.gt_masks.tensor.shape == (1, 40, 60)
    assert instances.gt_keypoints.tensor.shape == (1, 17, 3)
    assert labels["sem_seg"].shape == (40, 60)
    assert (labels["height"], labels["width"]) == (40, 60)


def test_what_a_stage_returns_beside_a_list_of_outputs_counts_as_nothing(registered):
    class Conv(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, batched_inputs):
            return self.conv(torch.stack([x["image"] for x in batched_inputs]))

    @registered
    class ReturnsATensor(Architecture):
        @classmethod
        def matches(cls, model):
            return isinstance(model, Conv)

        def stages(self, batched_inputs, training_branches=False):
            return [Stage(lambda _: self.model(batched_inputs))]

    model, images = Conv(), [{"image": torch.rand(3, 8, 8)}]
    [output] = head_outputs(model, images)
    assert torch.equal(output, model(images))
