"""The training loss of a model as a number to compare models by, where nothing evaluates them."""

import math

from detectron2.utils import comm

from ..errors import PruningError
from ..pruning.scores import mean_loss
from ..pruning.tracing.hooks import keeping_random_state
from ..wrappers import unwrap
from .trainer_data import training_batches

#: The metric, in results of the form that detectron2's evaluators give.
TASK, METRIC = "training images:", "minus the loss"
_IMAGES = 32


class TrainingLoss:
    """Minus the mean loss on a few images of the training; greater is better.

    Norms use their running statistics, and random choices of the losses are the same each time.

    Args:
        trainer (TrainerBase): its loader gives the images: the first ones of a fresh pass.

    Raises:
        ConfigError: the loader gives no batches in detectron2's format.
    """

    def __init__(self, trainer):
        self._model = unwrap(trainer.model)
        # A training that resumes gets the same images, augmented in the same way.
        with keeping_random_state(self._model):
            self._batches = training_batches(trainer, _IMAGES)

    def __call__(self):
        """Results as of an evaluator: task → metric → value, -inf for a loss that is not finite."""
        try:
            loss = mean_loss(self._model, self._batches)
        except PruningError:
            loss = math.inf
        found = comm.all_gather(loss)
        return {TASK: {METRIC: -sum(found) / len(found)}}
