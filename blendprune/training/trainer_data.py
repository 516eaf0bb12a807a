"""What the hooks ask of the trainer that they are registered with."""

import itertools

from ..pruning.prune import check_inputs, config_inputs


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
    """What :func:`blendprune.prune` traces a model with, one of the trainer's images if need be."""
    batches = None
    if given is None and config_inputs(model) is None:
        batches = training_batches(trainer, 1)
    return check_inputs(model, given, batches)
