"""A few digit scenes, registered for a while."""

import contextlib

from detectron2.data import DatasetCatalog, MetadataCatalog

from blendprune.data.digits import DIGITS_TEST, DIGITS_TRAIN, register_digits, write_digits


@contextlib.contextmanager
def digit_scenes(folder, num_train=2, num_test=1):
    """Write scenes of 64 px, and register them until the end.

    Args:
        folder (pathlib.Path): gets a folder ``digits``.
        num_train (int), num_test (int): number of scenes in each split.
    """
    register_digits(write_digits(folder / "digits", num_train, num_test, image_size=64))
    try:
        yield
    finally:
        forget_digits()


def forget_digits():
    """End the registration."""
    for name in (DIGITS_TRAIN, DIGITS_TEST):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
