"""The images of a training as a stream: each is a function of a seed and its position."""

import contextlib
import copy
import itertools
import random

import numpy as np
import torch
from detectron2.data import samplers
from detectron2.data.common import (
    AspectRatioGroupedDataset,
    MapDataset,
    ToIterableDataset,
    _MapIterableDataset,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

# Samplers that begin again with the same images, and what else than the data set makes them so.
_SAMPLERS = {
    samplers.TrainingSampler: ("_seed",),
    samplers.RandomSubsetTrainingSampler: ("_seed", "_indexes_subset"),
    samplers.RepeatFactorTrainingSampler: ("_seed",),
}


class ImageStream:
    """A loader of detectron2 that can go on where another run of the training was.

    The order of the images is the sampler's, with any number of workers. What the mapper draws for
    an image follows from the seed and the image's position in this order: no random state of a
    worker, and nothing that was loaded ahead, has to be known to go on. Aspect ratio grouping holds
    some images back; their positions are part of the state.

    Args:
        loader (Iterable): of ``build_detection_train_loader``; it stays as it is.
        seed (int): for the mapper's random numbers.

    Raises:
        TypeError: the loader, or its sampler, is of another kind.
    """

    def __init__(self, loader, seed):
        self._loader, self._pending, self._position = loader, [], 0
        grouped = loader._dataset if type(loader) is _MapIterableDataset else loader
        self._grouped = grouped if type(grouped) is AspectRatioGroupedDataset else None
        self._flat = self._grouped.dataset if self._grouped else loader
        if type(self._flat) is not DataLoader:
            raise TypeError(f"a {type(self._flat).__name__}")
        found = self._flat.dataset
        if type(found) is not ToIterableDataset:
            raise TypeError(f"a DataLoader of a {type(found).__name__}")
        if type(found.sampler) not in _SAMPLERS:
            raise TypeError(f"a {type(found.sampler).__name__}")
        self._sampler, self._batch = found.sampler, self._flat.batch_size
        # Batches come from the workers in turns.
        self._places = _Places(found.sampler, self._batch)
        self._images = _SeededImages(found.dataset, seed)
        # The loader itself stays as it is: a loop may be reading it.
        own, self._flat = copy.copy(found), copy.copy(self._flat)
        own.sampler, own.dataset, own.shard_sampler = self._places, self._images, False
        vars(self._flat)["dataset"] = own  # DataLoader refuses to change it

    def __getattr__(self, name):
        return getattr(self.__dict__["_loader"], name)

    def __iter__(self):
        """Go on behind the last batch that such a pass gave."""
        return self._batches(self._pending, self._position, self._note)

    def from_start(self):
        """Yield batches from the first one, beside the training."""
        return self._batches([], 0, lambda pending, position: None)

    @property
    def is_read(self):
        """Whether a batch was taken: a loop may read the loader instead."""
        return self._position > 0

    def reorder(self, seed):
        """Take the order of the images from a seed; of a random subset, the order alone."""
        self._sampler._seed = seed

    def state_dict(self):
        """Where the stream stands, and what it is made of."""
        attributes = _SAMPLERS[type(self._sampler)]
        return {
            "seed": self._images.seed,
            "size": len(self._images),
            "kind": type(self._sampler).__name__,
            "sampler": {name: getattr(self._sampler, name) for name in attributes},
            "pending": list(self._pending),
            "position": self._position,
        }

    def load_state_dict(self, state):
        """Go on where another stream of the same data set was.

        Args:
            state (dict): from :meth:`state_dict`.

        Raises:
            ValueError: it is of another data set or sampler.
        """
        if state["size"] != len(self._images):
            raise ValueError(f"{len(self._images)} images, not {state['size']} as before")
        if state["kind"] != type(self._sampler).__name__:
            raise ValueError(f"another sampler than before, {type(self._sampler).__name__}")
        self._images.seed = state["seed"]
        for name, value in state["sampler"].items():
            setattr(self._sampler, name, value)
        self._note(state["pending"], state["position"])

    def _note(self, pending, position):
        self._pending, self._position = list(pending), position

    def _batches(self, pending, position, note):
        # Read when the first batch is asked for, which happens before this generator stops.
        self._places.begin = list(pending), position
        with _own_random_states():  # PyTorch draws a seed for the workers
            flat = iter(self._flat)
        if self._grouped is None:
            for batch in flat:
                position += self._batch
                note([], position)
                yield batch
            return
        grouped, held = copy.copy(self._grouped), []
        grouped._buckets = [[] for _ in self._grouped._buckets]
        positions = itertools.chain(pending, itertools.count(position))
        grouped.dataset = _remembering(positions, flat, held)
        batches = grouped
        if self._loader is not self._grouped:  # collated
            batches = copy.copy(self._loader)
            batches._dataset = grouped
        for batch in batches:
            position = max(position, held[-1][0] + 1)
            waiting = {id(image) for bucket in grouped._buckets for image in bucket}
            held[:] = [each for each in held if id(each[1]) in waiting]
            note([place for place, _ in held], position)
            yield batch


def same_images(loader, cfg):
    """Let a loader give the same images in each run of a script.

    Without a SEED, detectron2 draws another one in each run, and an interrupted prune that is
    started again would see other images.

    Args:
        loader (Iterable): the script's; nothing was read from it, and nothing else reads it.
        cfg (CfgNode): its config.

    Returns:
        Iterable: the loader itself if SEED is set, or if it is of a kind that is not known.
    """
    if cfg.SEED >= 0:
        return loader
    try:
        stream = ImageStream(loader, seed=0)
    except TypeError:
        return loader
    stream.reorder(0)
    return stream


def _remembering(positions, images, held):
    for position, image in zip(positions, images):
        held.append((position, image))
        yield image


class _Places(Sampler):
    """Pairs of a position and what a sampler has there, from a position on; a worker's share.

    Attributes:
        begin (tuple[list[int], int]): single positions, ascending, and the one to go on from.
    """

    def __init__(self, sampler, chunk):
        self.sampler, self.chunk, self.begin = sampler, chunk, ([], 0)

    def __iter__(self):
        return self._share(set(self.begin[0]), self.begin[1])

    def _share(self, pending, begin):
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        places = (
            (position, index)
            for position, index in enumerate(self.sampler)
            if position >= begin or position in pending
        )
        for i, place in enumerate(places):
            if i // self.chunk % count == number:
                yield place


class _SeededImages(Dataset):
    """A data set that is asked for pairs of a position and an index."""

    def __init__(self, images, seed):
        self.images, self.seed = images, seed
        self._rank, self._world = comm.get_rank(), comm.get_world_size()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        position, index = place
        with _own_random_states():
            seed = (self.seed, position * self._world + self._rank)
            numbers = seed_random_states(*seed, torch_seed=torch.default_generator.manual_seed)
            if isinstance(self.images, MapDataset):
                # It tries other images in place of those that the mapper leaves out.
                self.images._rng.seed(int(numbers[0]))
                self.images._fallback_candidates.update(range(len(self.images)))
            return self.images[index]


def seed_random_states(*what, torch_seed=torch.manual_seed):
    """Seed Python, NumPy and PyTorch.

    Args:
        what (int): the random numbers follow from these, of at least 0.
        torch_seed (Callable): seeds PyTorch; by default all devices.

    Returns:
        np.ndarray: (3,) the seeds.
    """
    numbers = np.random.SeedSequence(what).generate_state(3)
    random.seed(int(numbers[0]))
    np.random.seed(numbers[1])
    torch_seed(int(numbers[2]))
    return numbers


@contextlib.contextmanager
def _own_random_states():
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
