"""A structure read off the shapes of weights, for a pruned file that has none."""

from torch import nn

from ..errors import StructError
from ..wrappers import plain_names, unwrap
from .entries import WIDTH_TUPLES, entries_of, named_modules, structure_of
from .widths import is_input


def structure_of_weights(model, weights, predictions=()):
    """The structure that a model has if it holds these weights.

    Attributes that repeat a width of another layer (``output_shape()``) stay as they are in the
    model; they follow once the widths are set, see
    :func:`blendprune.pruning.tracing.attributes.sync_attributes`.

    Args:
        model (nn.Module): the dense model, wrapped or not.
        weights (dict[str, Tensor]): a state dict of it, or of a narrower version.
        predictions (Iterable[str]): layers whose output width may be another in the weights,
            because they are of other classes.

    Returns:
        dict: the structure, for :func:`blendprune.restructure`.

    Raises:
        StructError: the weights are not those of this model.
    """
    model = unwrap(model)
    names, modules = plain_names(weights), dict(named_modules(model))
    shapes = {names[key]: list(getattr(value, "shape", ())) for key, value in weights.items()}
    dense, found = entries_of(model), {}
    for name, entry in dense.items():
        tensors = {key: f"{name}.{key}" if name else key for key in _shapes(entry)}
        lacking = [full for full in tensors.values() if full not in shapes]
        if lacking:
            raise StructError(
                f'the checkpoint has no "struct", and its weights lack {lacking[0]!r}, which this '
                "model has: keep all weights in the file (heads of other classes may stay: they "
                "get the classes of the config), or set MODEL.FINETUNE False to start from weights "
                "that are not pruned."
            )
        new = {key: shapes[full] for key, full in tensors.items()}
        odd = next((key for key in new if len(new[key]) != len(entry[key])), None)
        if odd is not None:
            raise StructError(
                f'the checkpoint has no "struct", and its {tensors[odd]!r} has the shape '
                f"{tuple(new[odd])}, which no width of this model gives ({tuple(entry[odd])}): set "
                "MODEL.WEIGHTS to a checkpoint of this model."
            )
        found[name] = {**entry, **new, **_numbers(entry, new, modules[name])}
    _fit_attention(found, modules)
    struct = {**structure_of(model), "modules": found, "prediction_layers": list(predictions)}
    for name in struct["prediction_layers"]:
        dense[name] = {
            key: _outputs_of(found[name][key], value, key, modules[name])
            for key, value in dense.get(name, {}).items()
        }
    struct["dense"] = dense
    return struct


def contradiction(struct, weights):
    """A layer whose weight has other widths than a structure says.

    Args:
        struct (dict): validated.
        weights (dict[str, Tensor]): the state dict beside it.

    Returns:
        str: the name of its weight, both shapes; empty if all agree. Prediction layers may differ.
    """
    shapes = {
        plain: tuple(getattr(weights[name], "shape", ()))
        for name, plain in plain_names(weights).items()
    }
    for name, entry in struct["modules"].items():
        found = shapes.get(f"{name}.weight")
        wanted = _weights_of(entry)
        if wanted and found and name not in struct.get("prediction_layers", ()):
            if len(found) >= 2 and found[:2] not in wanted:
                return f"{name}.weight is {found}, the struct says {wanted[0]}"
    return ""


def _weights_of(entry):
    """First two widths that the weight of a layer may have; a transposed conv has them swapped."""
    if "in_features" in entry and "out_features" in entry:
        return [(entry["out_features"], entry["in_features"])]
    if "in_channels" in entry and "out_channels" in entry:
        inputs, outputs, groups = (
            entry["in_channels"],
            entry["out_channels"],
            entry.get("groups") or 1,
        )
        return [(outputs, inputs // groups), (inputs, outputs // groups)]
    return []


def _shapes(entry):
    return [k for k, value in entry.items() if isinstance(value, list) and k not in WIDTH_TUPLES]


def _numbers(entry, shapes, module):
    """The attributes of a layer that its shapes tell."""
    weight = shapes.get("weight")
    if weight is None:
        # FrozenBatchNorm2d and norms without weights still have statistics.
        one = next((shape for shape in shapes.values() if len(shape) == 1), None)
        return {k: one[0] for k in ("num_features", "num_channels") if one and k in entry}
    if "in_features" in entry:
        return {"in_features": weight[1], "out_features": weight[0]}
    if "in_channels" in entry and len(weight) > 2:
        groups = entry.get("groups", 1)
        transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
        if 1 < groups == entry["in_channels"]:  # depthwise: the groups are its channels
            made = entry["out_channels"] // groups
            groups = weight[0] if transposed else weight[0] // made
        inputs, outputs = weight[:2] if transposed else weight[1::-1]
        inputs, outputs = (inputs, outputs * groups) if transposed else (inputs * groups, outputs)
        known = {"in_channels": inputs, "out_channels": outputs, "groups": groups}
        return {key: value for key, value in known.items() if key in entry}
    if "normalized_shape" in entry:
        return {"normalized_shape": weight}
    return {k: weight[0] for k in ("num_features", "num_channels") if k in entry}


def _fit_attention(found, modules):
    """Attention loses whole heads, each of the width that it has."""
    # Imported here because it needs detectron2.
    from ..modeling.attention import is_attention

    for name, module in modules.items():
        if is_attention(module):
            width = module.proj.in_features // module.num_heads
            found[name]["num_heads"] = found[f"{name}.proj"]["in_features"] // width


def _outputs_of(theirs, ours, key, module):
    """The value of an entry with their outputs and our inputs."""
    if isinstance(ours, list):
        axes = enumerate(zip(theirs, ours))
        return [own if is_input(key, axis, module) else new for axis, (new, own) in axes]
    return ours if is_input(key, None, module) else theirs
