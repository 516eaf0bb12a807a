"""The model's own forward, in inference and in training, to see what its stages do not run.

A head that a subclass adds runs in the model's own ``forward`` only. An auxiliary head (CondInst's
``SEMANTIC_LOSS_ON``, FCPose's heatmaps) runs in training only. Both read features that inference
prunes, and must be pruned with them. The values of the losses do not matter. A forward that fails
half-way has shown what runs before the failure.
"""

import contextlib

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


def dummy_batch(model, batched_inputs):
    """The images with labels that the model's architecture makes up.

    Args:
        model (nn.Module): a detectron2-style model.
        batched_inputs (list[dict]): detectron2's format; only ``"image"`` (C, H, W) is read.

    Returns:
        list[dict]: detectron2's format.
    """
    architecture = architecture_of(model)
    return [architecture.dummy_labels(x["image"]) for x in batched_inputs]


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
    with keeping_state(model), _quietly(model):
        for module in model.modules():
            still = is_prunable_layer(module) or is_norm(module)
            module.training = not (still or isinstance(module, nn.modules.dropout._DropoutNd))
        return model(batch)


@contextlib.contextmanager
def _quietly(model):
    with (
        EventStorage(),
        full_forward(model),
        keeping_random_state(model),
        no_gradients_from_recurrent_layers(model),
    ):
        yield
