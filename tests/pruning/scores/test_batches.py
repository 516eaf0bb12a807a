"""Calibration data as batches: what is read of it, and what is refused."""

import gc
import itertools
import logging
import multiprocessing

import pytest
import torch
from detectron2.data import MapDataset, build_batch_data_loader
from detectron2.data.samplers import TrainingSampler
from torch import nn
from torch.utils.data import DataLoader

from blendprune import structure
from blendprune.errors import ConfigError
from blendprune.pruning import prune
from blendprune.pruning.scores import as_batches, first_batches
from tests.helpers.chain import Chain, chain_inputs

IMAGE = {"image": torch.zeros(3, 4, 4), "height": 4, "width": 4}
MODEL = nn.Linear(1, 1)


class Endless:
    """Batches without an end; counts what was read."""

    def __init__(self, per_batch, batch=None):
        self.batch, self.read = batch or [IMAGE] * per_batch, 0

    def __iter__(self):
        while True:
            self.read += 1
            yield self.batch


class Lying(Endless):
    """Endless with a length, as some samplers have."""

    def __init__(self, length):
        super().__init__(1)
        self.length = length

    def __len__(self):
        return self.length


@pytest.mark.parametrize("per_batch, read", [(1, 64), (16, 4), (24, 3), (100, 1)])
def test_of_data_without_an_end_the_first_64_images_are_read_and_nothing_behind(per_batch, read):
    data = Endless(per_batch)
    batches, [note] = as_batches(data, MODEL)
    assert sum(map(len, batches)) == 64 and max(map(len, batches)) <= 4
    assert data.read == read
    assert "its first 64 images were read (PRUNER.CALIBRATION_IMAGES)" in note


def test_the_config_of_the_model_says_how_many(blendmask_cfg):
    model, data = nn.Linear(1, 1), Endless(2)
    structure.remember(model, blendmask_cfg("PRUNER.CALIBRATION_IMAGES", 5))
    batches, [note] = as_batches(data, model)
    assert sum(map(len, batches)) == 5 and data.read == 3 and "first 5 images" in note


@pytest.mark.parametrize("bad", [0, -1])
def test_a_number_in_the_config_that_is_none_is_refused_before_reading(blendmask_cfg, bad):
    model, data = nn.Linear(1, 1), Endless(2)
    structure.remember(model, blendmask_cfg("PRUNER.CALIBRATION_IMAGES", bad))
    with pytest.raises(ConfigError, match="PRUNER.CALIBRATION_IMAGES must be a whole number"):
        as_batches(data, model)
    assert data.read == 0


def test_data_with_a_length_is_read_whole_with_its_own_batches():
    data = [[IMAGE] * 9] * 10
    assert as_batches(data, MODEL) == (data, [])
    assert as_batches(DataLoader([IMAGE] * 70, batch_size=7, collate_fn=list), MODEL) == (
        [[IMAGE] * 7] * 10,
        [],
    )


def test_data_without_a_length_that_ends_early_is_read_whole_and_nothing_is_said():
    assert as_batches(iter([[IMAGE] * 2] * 3), MODEL) == ([[IMAGE] * 2] * 3, [])
    assert as_batches((IMAGE for _ in range(3)), MODEL) == ([[IMAGE]] * 3, [])


@pytest.mark.parametrize("length, images", [(3, 3), (1 << 40, 64)])
def test_an_endless_loader_that_has_a_length_ends_there_or_at_the_number(length, images):
    data = Lying(length)
    batches, _ = as_batches(data, MODEL)
    assert len(list(itertools.chain(*batches))) == data.read == images


@pytest.mark.parametrize("grouping", [True, False])
def test_a_training_loader_of_detectron2_ends_its_workers(grouping):
    loader = build_batch_data_loader(
        MapDataset([IMAGE] * 4, dict),
        TrainingSampler(4),
        total_batch_size=8,
        num_workers=2,
        aspect_ratio_grouping=grouping,
    )
    before = set(multiprocessing.active_children())
    batches, [note] = as_batches(loader, MODEL)
    gc.collect()
    assert sum(map(len, batches)) == 64
    assert set(multiprocessing.active_children()) <= before


def test_the_first_batches_are_as_many_images_as_asked_for():
    data = Endless(3)
    assert list(map(len, first_batches(data, MODEL, 7))) == [3, 3, 1]
    assert data.read == 3


def test_prune_reads_no_more_than_it_needs_and_says_so(caplog):
    data = Endless(32, chain_inputs() * 32)
    with caplog.at_level(logging.INFO, "blendprune"):
        report = prune(
            Chain(8, 8), chain_inputs(), pruning_ratio=0.4, data=data, importance="wanda"
        )
    assert data.read == 2
    [note] = [note for note in report.notes if "may not end" in note]
    assert note in caplog.messages


@pytest.mark.parametrize(
    "data, sentence",
    [
        (5, "data is a int: pass batches"),
        ("images", "data is a str: pass batches"),
        (IMAGE, "data is a dict: pass batches"),
        ([], "data holds no images: pass batches"),
        ([[]], "data holds no images: pass batches"),
        (itertools.repeat([]), "data holds no images: pass batches"),
        ([5], "but gave a int"),
        ([[torch.zeros(3, 4, 4)]], 'must give lists of dicts with "image", .* but gave a Tensor'),
        ([[{"img": 1}]], "but gave a dict of 'img'"),
        ([[{"image": torch.zeros(4, 4).numpy()}]], 'has a ndarray as "image": pass a tensor'),
        ([[{"image": torch.zeros(4, 4)}]], r'"image" of shape \(4, 4\): pass one image'),
        ([[{"image": torch.zeros(2, 3, 4, 4)}]], r"of shape \(2, 3, 4, 4\): pass one image"),
        ([[{"image": torch.zeros(3, 0, 4)}]], r"of shape \(3, 0, 4\): pass one image"),
        ([[{"image": torch.full((3, 4, 4), torch.nan)}]], "with NaN or Inf: leave it out"),
    ],
)
def test_data_of_another_form_is_refused(data, sentence):
    with pytest.raises(ConfigError, match=sentence):
        as_batches(data, MODEL)


def test_images_of_other_channels_are_refused():
    model = nn.Linear(1, 1)
    model.register_buffer("pixel_mean", torch.zeros(3, 1, 1))
    as_batches([[{"image": torch.zeros(1, 4, 4)}]], model)  # broadcast by the normalisation
    with pytest.raises(ConfigError, match=r"\(4, 4, 3\), but Linear reads 3 channels: pass \(C,"):
        as_batches([[{"image": torch.zeros(4, 4, 3)}]], model)
