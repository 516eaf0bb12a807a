"""Data and example inputs from the trainer that a hook is registered with."""

from ..pruning.graph.inputs import config_inputs, example_inputs_for
from ..pruning.scores import first_batches
from ..wrappers import unwrap
from .images import ImageStream


def training_batches(trainer, images):
    """The first batches of a fresh pass over the trainer's own data.

    Args:
        trainer (TrainerBase): with ``data_loader``, as detectron2's have; it need not end.
        images (int): how many; fewer if there are no more. Nothing is read behind them.

    Returns:
        list[list[dict]]: batches.

    Raises:
        ConfigError: the loader gives something else.
    """
    loader = trainer.data_loader
    if isinstance(loader, ImageStream):
        loader = loader.from_start()
    return first_batches(loader, unwrap(trainer.model), images)


def example_inputs_of(model, given, trainer):
    """Inputs to trace with: the given ones, those of the config, or one of the trainer's."""
    batches = None
    if given is None and config_inputs(model) is None:
        batches = training_batches(trainer, 1)
    return example_inputs_for(model, given, batches)
