"""Refusing weights of other widths, which fvcore would skip with a warning.

What upstream does with a file of another number of classes is right: it warns, and the head starts
from random weights. In a pruned model, or with a pruned file, most layers would. A layer's own
output width does not tell the two apart; its input width does, and the width of a norm: they follow
from what other layers make.
"""

from typing import NamedTuple

import torch

from ..errors import CheckpointError
from ..structure import dense_entries, entry_of, is_pruned, named_modules, structure_of
from ..structure.widths import INPUTS, NORM_WIDTHS, is_input_axis
from ..wrappers import plain_names, plain_state, unwrap
from .reading import struct_in, weights_in

# Of a file that says nothing about itself: this fraction of the layers must be narrower.
_MOST = 0.5


def refuse_other_widths(checkpoint, model):
    """Refuse a pruned checkpoint in a model of other widths, and a dense one in a pruned model.

    Whether a file without ``"struct"`` is pruned follows from its shapes: more than half of the
    layers are narrower than the model's.

    Args:
        checkpoint (dict): with ``"model"`` and, if it was saved under the overlay, ``"struct"``.
        model (nn.Module): the model to load it into, wrapped or not.

    Raises:
        CheckpointError: layers inside the network have other widths.
        StructError: the structure is malformed.
    """
    model, struct = unwrap(model), struct_in(checkpoint)
    pruned_model = is_pruned(structure_of(model))
    if pruned_model and _has_other_names(checkpoint, model):
        raise CheckpointError(
            "the model is pruned, but the weights to load are of a dense one, under names of "
            f"another tool: {_LOAD_PRUNED}"
        )
    found, layers = _differences(weights_in(checkpoint), model, struct)
    if not found:
        return
    narrower = [x for x in found if x.narrower]
    if struct is None:
        pruned_file = len({x.layer for x in narrower}) > _MOST * layers
    elif is_pruned(struct):
        pruned_file = True
    else:  # built from a config, it is known to be dense
        pruned_file = bool(narrower) and not struct["config"]
    if pruned_file and pruned_model:
        key, theirs, ours = found[0][:3]
        raise CheckpointError(
            f"the checkpoint is of another pruned model ({key} is {theirs}, not {ours}): train "
            "without --resume, resume with the OUTPUT_DIR of this model's own training, or set "
            "MODEL.WEIGHTS to the checkpoint for its widths."
        )
    if pruned_file:
        raise CheckpointError(_pruned_in_other(found[0], struct))
    if pruned_model:
        key, theirs, ours = found[0][:3]
        raise CheckpointError(
            f"the model is pruned ({key} is {ours}), but the checkpoint is dense ({theirs}): "
            f"{_LOAD_PRUNED}"
        )


def _has_other_names(checkpoint, model):
    # AdelaiDet turns these heuristics on by the name of the file, too.
    if not checkpoint.get("matching_heuristics", False):
        return False
    return not plain_state(model).keys() & set(plain_names(weights_in(checkpoint)).values())


_LOAD_PRUNED = (
    "load a checkpoint of the pruned model, or set MODEL.FINETUNE False to build a dense model."
)


def _pruned_in_other(difference, struct):
    key, theirs, ours = difference[:3]
    if struct is None:
        return (
            f'the checkpoint has no "struct", and its layers are narrower than the model\'s ({key} '
            f"is {theirs}, the model has {ours}), as those of a pruned model are: set "
            "MODEL.FINETUNE True and MODEL.WEIGHTS to this checkpoint, which then gives the "
            "widths, or call blendprune.load(path, model=dense_model)."
        )
    sizes = f"{struct['size'] / 1e6:.1f} M of {struct['dense_size'] / 1e6:.1f} M values; "
    sizes = sizes if struct["size"] < struct["dense_size"] else ""
    given = "" if struct["config"] else ", model=dense_model"
    return (
        f"the checkpoint is pruned ({sizes}{key} is {theirs}), but the model has {ours}: set "
        "MODEL.FINETUNE True and MODEL.WEIGHTS to this checkpoint, or call "
        f"blendprune.load(path{given})."
    )


class _Difference(NamedTuple):
    key: str
    theirs: tuple
    ours: tuple
    layer: str
    narrower: bool


def _differences(weights, model, struct):
    """Tensors whose shapes inside the network differ, and the number of layers compared."""
    modules, before = dict(named_modules(model)), dense_entries(model)
    original = (struct or {}).get("dense", {})
    names = plain_names(weights)
    shapes = {names[key]: tuple(getattr(value, "shape", ())) for key, value in weights.items()}
    found, layers = [], set()
    for key, value in plain_state(model).items():
        layer, _, name = key.rpartition(".")
        # What set_extra_state takes may be anything.
        if key not in shapes or layer not in modules or not isinstance(value, torch.Tensor):
            continue
        theirs, ours = shapes[key], tuple(value.shape)
        axes = _inner_axes(modules[layer], name, ours)
        if axes and len(theirs) == len(ours):
            layers.add(layer)
            dense = before.get(layer, {}).get(name, ours)
            pruned_from = original.get(layer, {}).get(name, theirs)
            for axis in axes:
                if _differ(theirs[axis], pruned_from[axis], ours[axis], dense[axis]):
                    found.append(_Difference(key, theirs, ours, layer, theirs[axis] < ours[axis]))
    return found, len(layers)


def _differ(theirs, pruned_from, ours, dense):
    """Whether two widths differ by more than their configs do."""
    lost = pruned_from - theirs
    # Both were pruned alike, and read predictions of other numbers of classes.
    return theirs != ours and not (lost and lost == dense - ours)


def _inner_axes(module, name, shape):
    """Axes of a tensor whose widths follow from what other layers make."""
    entry = entry_of(module)
    if any(key in entry for key in NORM_WIDTHS):
        return (0,) if len(shape) == 1 else ()
    if name == "weight" and any(key in entry for key in INPUTS):
        return tuple(axis for axis in range(len(shape)) if is_input_axis(module, axis))
    # Tables and embeddings.
    return (len(shape) - 1,) if len(shape) > 1 else ()
