"""A training forward on dummy labels, to see the branches that only training runs.

An auxiliary head (CondInst's ``SEMANTIC_LOSS_ON``, FCPose's heatmaps) reads features that inference
prunes; it must be pruned with them. The values of the losses do not matter. A forward that fails
half-way has shown the branches before the failure.
"""

import contextlib

import torch
from torch import nn

from ..tracing.hooks import no_gradients_from_recurrent_layers
from ..tracing.layer_kinds import is_norm, is_prunable_layer
from ..tracing.snapshot import keeping_state
from .registry import architecture_of


def run_training_forward(model, batched_inputs):
    """Run the training forward of a model in eval mode; the model stays unchanged.

    Layers, norms and dropout stay in eval mode. Exceptions of the forward are dropped.

    Args:
        model (nn.Module): a detectron2-style model in eval mode.
        batched_inputs (list[dict]): detectron2's format; only ``"image"`` (C, H, W) is read.
    """
    architecture = architecture_of(model)
    labelled = [architecture.dummy_labels(x["image"]) for x in batched_inputs]
    with keeping_state(model), torch.random.fork_rng(devices=[]), contextlib.suppress(Exception):
        for module in model.modules():
            still = is_prunable_layer(module) or is_norm(module)
            module.training = not (still or isinstance(module, nn.modules.dropout._DropoutNd))
        with no_gradients_from_recurrent_layers(model):
            model(labelled)
