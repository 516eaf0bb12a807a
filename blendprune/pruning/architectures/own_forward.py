"""The model's own forward, in inference and in training, to see what its stages do not run.

A head that a subclass adds runs in the model's own ``forward`` only. An auxiliary head (CondInst's
``SEMANTIC_LOSS_ON``, FCPose's heatmaps) runs in training only. Both read features that inference
prunes, and must be pruned with them. The values of the losses do not matter. A forward that fails
half-way has shown what runs before the failure.
"""

import contextlib
import re

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from ..tracing.hooks import (
    full_forward,
    keeping_random_state,
    no_gradients_from_recurrent_layers,
)
from ..tracing.layer_kinds import is_norm, is_prunable_layer
from ..tracing.snapshot import keeping_state
from .registry import architecture_of

# Labels that a training forward may ask for beside those that its architecture makes up.
_MOST_MADE_UP = 8


def run_own_inference(model, batched_inputs):
    """Run the model's own forward in eval mode; the model stays unchanged.

    Args:
        model (nn.Module): a detectron2-style model in eval mode.
        batched_inputs (list[dict]): detectron2's format.

    Returns:
        object: what the forward returns.
    """
    with keeping_state(model), _quietly(model):
        return model(batched_inputs)


def run_own_training(model, batch):
    """Run the model's training forward with its layers in eval mode; the model stays unchanged.

    Layers, norms and dropout stay in eval mode.

    Args:
        model (nn.Module): a detectron2-style model in eval mode.
        batch (list[dict]): detectron2's format, with the labels that the losses read.

    Returns:
        object: what the forward returns.
    """
    with keeping_state(model, parameters=True), _quietly(model):
        for module in model.modules():
            still = is_prunable_layer(module) or is_norm(module)
            module.training = not (still or isinstance(module, nn.modules.dropout._DropoutNd))
        return model(batch)


def run_own_training_on_made_up_labels(model, batched_inputs):
    """Run the model's training forward on labels that its architecture makes up.

    A label that the model asks for by name, and that the architecture does not know, is zero.

    Args:
        model (nn.Module), batched_inputs: as for :func:`run_own_inference`; only ``"image"`` is
            read.

    Returns:
        object: what the forward returns.
    """
    architecture = architecture_of(model)
    made_up = set()
    while True:
        batch = [architecture.dummy_labels(x["image"]) for x in batched_inputs]
        for each in batch:
            _add_zeros(each, made_up)
        try:
            return run_own_training(model, batch)
        except (KeyError, AttributeError) as error:
            asked = _asked_for(error)
            if asked is None or asked in made_up or len(made_up) == _MOST_MADE_UP:
                raise
            made_up.add(asked)


def _asked_for(error):
    """The label that an exception misses: (whether of an object, name), or None."""
    if isinstance(error, KeyError):
        key = error.args[0] if error.args else None
        return (False, key) if isinstance(key, str) else None
    field = re.match("Cannot find field '(\\w+)' in the given Instances", str(error))
    return (True, field.group(1)) if field else None


def _add_zeros(labels, made_up):
    for of_object, name in made_up:
        if of_object and not labels["instances"].has(name):
            labels["instances"].set(name, torch.zeros(len(labels["instances"])))
        elif not of_object:
            labels.setdefault(name, torch.tensor(0))


@contextlib.contextmanager
def _quietly(model):
    with (
        EventStorage(),
        full_forward(model),
        keeping_random_state(model),
        no_gradients_from_recurrent_layers(model),
    ):
        yield
