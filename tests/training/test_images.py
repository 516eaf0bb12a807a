"""A stream of training images goes on where another one was, image for image."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)

from blendprune.training.images import ImageStream, same_images

_IMAGES = [{"number": i, "height": 4, "width": 4 + 4 * (i % 3 == 0)} for i in range(10)]


def _mapper(image):
    """Draws as augmentations do, and leaves one image out, as mappers may."""
    if image["number"] == 7:
        return None
    draws = (random.random(), np.random.rand(), float(torch.rand(())))
    return {**image, "draws": draws}


def _loader(sampler=TrainingSampler, grouping=False, workers=0, mapper=_mapper):
    np.random.seed(1)  # the sampler draws its own seed
    if sampler is RepeatFactorTrainingSampler:
        sampler = sampler(torch.linspace(1, 3, len(_IMAGES)), seed=random.randrange(1000))
    elif sampler is RandomSubsetTrainingSampler:
        sampler = sampler(len(_IMAGES), 0.8, seed_shuffle=random.randrange(1000))
    else:
        sampler = sampler(len(_IMAGES), seed=random.randrange(1000))
    return build_detection_train_loader(
        _IMAGES,
        mapper=mapper,
        sampler=sampler,
        total_batch_size=2,
        aspect_ratio_grouping=grouping,
        num_workers=workers,
    )


def _take(batches, number):
    return [batch for _, batch in zip(range(number), batches)]


@pytest.mark.parametrize(
    ("sampler", "grouping", "workers"),
    [
        (TrainingSampler, False, 0),
        (TrainingSampler, True, 0),
        (TrainingSampler, True, 2),
        (RandomSubsetTrainingSampler, True, 0),
        (RepeatFactorTrainingSampler, False, 0),
    ],
)
@pytest.mark.parametrize("seen", [1, 6])
def test_a_stream_goes_on_where_another_was(sampler, grouping, workers, seen):
    first = ImageStream(_loader(sampler, grouping, workers), 5)
    begun = _take(iter(first), seen)
    state = first.state_dict()
    rest = _take(iter(first), 8)
    # Another process: another seed, other random states, and no workers.
    random.seed(9), torch.manual_seed(9)
    second = ImageStream(_loader(sampler, grouping), 6)
    second.load_state_dict(state)
    assert _take(iter(second), 8) == rest
    assert _take(second.from_start(), seen) == begun
    assert begun[0] not in rest


@pytest.mark.parametrize("grouping", [False, True])
def test_a_training_sees_the_images_that_upstreams_loader_gives(grouping):
    def numbers(wrap):
        random.seed(3)
        batches = wrap(_loader(grouping=grouping, mapper=lambda image: image))
        return [[image["number"] for image in batch] for batch in _take(iter(batches), 20)]

    assert numbers(lambda loader: ImageStream(loader, 5)) == numbers(lambda loader: loader)


def test_another_image_comes_where_the_mapper_leaves_one_out():
    batches = _take(iter(ImageStream(_loader(), 5)), 30)
    found = {image["number"] for batch in batches for image in batch}
    assert found == set(range(10)) - {7} and all(len(batch) == 2 for batch in batches)


def test_random_states_of_the_training_are_left_alone():
    stream = iter(ImageStream(_loader(), 5))
    next(stream)
    torch.manual_seed(2), random.seed(2), np.random.seed(2)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(2), random.seed(2), np.random.seed(2)
    next(stream)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


def test_no_image_is_drawn_alike_twice():
    batches = _take(iter(ImageStream(_loader(), 5)), 30)
    draws = [image["draws"] for batch in batches for image in batch]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: [1, 2], "a list"),
        (lambda: _loader(lambda n, seed: InferenceSampler(n)), "a InferenceSampler"),
        (lambda: torch.utils.data.DataLoader(_IMAGES), "a DataLoader of a list"),
    ],
)
def test_another_kind_of_loader_is_named(make, kind):
    with pytest.raises(TypeError, match=kind):
        ImageStream(make(), 5)


def test_another_data_set_is_named():
    state = ImageStream(_loader(), 5).state_dict()
    with pytest.raises(ValueError, match="10 images, not 12 as before"):
        ImageStream(_loader(), 5).load_state_dict({**state, "size": 12})
    with pytest.raises(ValueError, match="another sampler than before, RepeatFactor"):
        ImageStream(_loader(RepeatFactorTrainingSampler), 5).load_state_dict(state)


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("sampler", [TrainingSampler, RepeatFactorTrainingSampler])
def test_without_a_seed_every_run_of_a_script_gives_the_same_images(sampler, grouping):
    def images(seed):
        random.seed(seed), torch.manual_seed(seed), np.random.seed(seed)
        loader = _loader(sampler, grouping)
        return _take(iter(loader), 6), _take(iter(same_images(loader, SimpleNamespace(SEED=-1))), 6)

    (theirs, ours), (other_theirs, other_ours) = images(1), images(2)
    assert theirs != other_theirs
    assert ours == other_ours


def test_the_images_of_a_seed_or_of_a_loader_of_the_scripts_own_are_left_alone():
    loader = _loader()
    assert same_images(loader, SimpleNamespace(SEED=0)) is loader
    own = [[{"image": None}]]
    assert same_images(own, SimpleNamespace(SEED=-1)) is own
