"""Data and example inputs from the trainer that a hook is registered with."""

import itertools

from ..pruning.graph.inputs import config_inputs, example_inputs_for


def training_batches(trainer, images):
    """The first batches of a fresh pass over the trainer's own data.

    Args:
        trainer (TrainerBase): with ``data_loader``, as detectron2's have.
        images (int): how many at least.

    Returns:
        list[list[dict]]: batches.
    """
    batches = []
    for batch in itertools.islice(iter(trainer.data_loader), images):
        batches.append(batch)
        if sum(map(len, batches)) >= images:
            break
    return batches


def example_inputs_of(model, given, trainer):
    """Inputs to trace with: the given ones, those of the config, or one of the trainer's."""
    batches = None
    if given is None and config_inputs(model) is None:
        batches = training_batches(trainer, 1)
    return example_inputs_for(model, given, batches)
