"""A checkpoint of a training that pruned meanwhile: the model takes its widths first."""

import torch

from ..checkpoint import struct_in
from ..pruning.graph.inputs import config_values
from ..pruning.graph.kept_entries import KeptEntries
from ..structure import structure_of
from ..structure.widths import restructure
from ..wrappers import unwrap
from .exact_resume import remember_resumption
from .gradual import GradualPruning, parameters_of, replace_parameters


def take_widths(checkpoint, checkpointer):
    """Give a model the widths of a checkpoint that gradual pruning of this training has pruned.

    ``--resume`` builds the dense model of the config first, and its optimizer. The model takes the
    widths of the checkpoint, the optimizer the new parameters; weights and states then load as
    ever. ``--eval-only`` has no optimizer. Nothing happens to other checkpoints, and nothing if
    neither the model's config (PRUNER.GRADUAL) nor a hook of the trainer prunes gradually.

    Args:
        checkpoint (dict): with ``"model"`` and, if saved under the overlay, ``"struct"``.
        checkpointer (DetectionCheckpointer): about to load it.

    Raises:
        StructError: the ``"struct"`` is malformed or of another model.
    """
    model = unwrap(checkpointer.model)
    remember_resumption(checkpoint, model)
    if not _prunes_gradually(model, checkpointer):
        return
    before, struct = structure_of(model), struct_in(checkpoint)
    if struct is None or struct["modules"] == before["modules"]:
        return
    parameters = parameters_of(model)
    restructure(model, struct)
    for optimizer in _optimizers(checkpointer):
        replace_parameters(optimizer, parameters, model, KeptEntries())
    # What the training began with, for a hook whose own state is not in the checkpoint.
    model.blendprune_began_as = before


def _prunes_gradually(model, checkpointer):
    hooks = getattr(checkpointer.checkpointables.get("trainer"), "_hooks", ())
    if any(isinstance(hook, GradualPruning) for hook in hooks):
        return True
    return config_values(model).get("PRUNER", {}).get("GRADUAL", {}).get("END", 0) > 0


def _optimizers(checkpointer):
    """The optimizers of a training: AdelaiDet's checkpointer has one, upstream's the trainer."""
    found = []
    for each in checkpointer.checkpointables.values():
        optimizer = each if isinstance(each, torch.optim.Optimizer) else None
        optimizer = optimizer or getattr(each, "optimizer", None)
        if optimizer is not None and not any(optimizer is other for other in found):
            found.append(optimizer)
    return found
