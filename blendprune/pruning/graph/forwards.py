"""The forwards that show all layers of a model: its stages, its own inference, its training."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from detectron2.utils.events import EventStorage

from ..architectures import (
    Architecture,
    architecture_of,
    run_own_inference,
    run_own_training,
    run_own_training_on_made_up_labels,
)


class Forward(NamedTuple):
    """One way in which a model runs.

    Attributes:
        name (str): what runs, for a sentence.
        run (Callable): runs it; returns what it gives.
    """

    name: str
    run: Callable

    def __call__(self):
        """Run it."""
        return self.run()


def forwards_of(model, batched_inputs, batches=()):
    """All forwards of a model, in the order in which they are tried.

    Args:
        model (nn.Module): a detectron2-style model in eval mode.
        batched_inputs (list[dict]): detectron2's format.
        batches (Sequence[list[dict]]): labelled images; without them, or after them, training runs
            on labels that the architecture makes up.

    Returns:
        list[Forward]: the stages, the model's own inference if it is something else, its training.
    """
    found = [Forward("inference", lambda: run_own_inference(model, batched_inputs))]
    # The stage of the default architecture is just that.
    if type(architecture_of(model)).stages is not Architecture.stages:
        found.insert(0, Forward("the stages", lambda: run_stages(model, batched_inputs)))
    found += [
        Forward("training", functools.partial(run_own_training, model, batch)) for batch in batches
    ]
    return [
        *found,
        Forward(
            "training on made-up labels",
            lambda: run_own_training_on_made_up_labels(model, batched_inputs),
        ),
    ]


def run_stages(model, batched_inputs, training_branches=True, all_regions=False):
    """Run the stages of a model's architecture.

    Args:
        model (nn.Module): a detectron2-style model in eval mode.
        batched_inputs (list[dict]): detectron2's format.
        training_branches (bool): also branches that only training runs.
        all_regions (bool): run the heads on as many regions as inference keeps, not on one.

    Returns:
        list[Tensor]: raw outputs; empty unless all stages return them.
    """
    # Some detectors log scalars while they run and look for a storage.
    with EventStorage():
        found = [
            stage.run(stage.count if all_regions else 1)
            for stage in architecture_of(model).stages(batched_inputs, training_branches)
        ]
    # A stage may also return something else, which counts as nothing.
    if not all(isinstance(outputs, list) for outputs in found):
        return []
    return [output for outputs in found for output in outputs]
