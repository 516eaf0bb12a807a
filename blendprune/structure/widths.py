"""Giving a dense model the widths of a pruned one."""

from typing import Any

from torch import nn

from ..errors import StructError
from ..wrappers import given_model
from .entries import (
    WIDTH_TUPLES,
    dense_entries,
    entry_of,
    named_modules,
    remember_dense,
    remember_predictions,
    validate,
)

#: Attributes of convs and linears that count inputs.
INPUTS = ("in_channels", "in_features")
#: Attributes that tell a norm.
NORM_WIDTHS = ("num_features", "num_channels", "normalized_shape")
_REBUILD = "build the model from the config the checkpoint was pruned with"


def restructure(model: nn.Module, struct: dict[str, Any]) -> None:
    """Reshape a dense model in place to the widths of a structure.

    Call it before the optimizer and DDP exist. Everything is checked before anything changes.
    Weights keep their leading slice; load the checkpoint's weights afterwards.

    The model may have other classes or anchors than the pruned one: prediction layers then keep the
    output width that they have in the model, and take their input width from the structure. Layers
    that read predictions (the point head of PointRend) follow. Loading skips the weights of these
    layers with upstream's own warning. Files of earlier versions do not say which layers predict:
    for them the widths of the model must be those that were pruned.

    Args:
        model (nn.Module): dense, of the same architecture and config; wrapped or not.
        struct (dict): from :func:`blendprune.structure_of`, possibly through a file.

    Raises:
        StructError: ``struct`` is malformed or belongs to another model.
        ConfigError: ``model`` is no model.
    """
    model = given_model(model, changes_widths=True)
    struct = validate(struct)
    if struct["meta_architecture"] != type(model).__name__:
        raise StructError(
            f'the "struct" is of a {struct["meta_architecture"]}, but the model is a '
            f"{type(model).__name__}: set MODEL.META_ARCHITECTURE to {struct['meta_architecture']}."
        )
    modules = {name: module for name, module in named_modules(model) if entry_of(module)}
    _compare_names(struct["modules"], modules)
    dense, current = dense_entries(model), {name: entry_of(m) for name, m in modules.items()}
    fit = _Fit(struct, current)
    wanted = {name: fit.entry(name, module) for name, module in modules.items()}

    set_entries(modules, wanted)
    if wanted != current:
        remember_dense(model, dense)
    if "prediction_layers" in struct:
        remember_predictions(model, struct["prediction_layers"])
    # Imported here because it needs detectron2.
    from ..modeling.attention import fit_heads

    fit_heads(model)


def set_entries(modules, entries):
    """Give modules the widths and shapes of their entries; weights keep what overlaps.

    Args:
        modules (dict[str, nn.Module]): by name.
        entries (dict[str, dict]): by name, as of :func:`blendprune.structure.entries_of`.
    """
    moved = {}
    for name, entry in entries.items():
        for key, value in entry.items():
            if key in WIDTH_TUPLES:
                setattr(modules[name], key, tuple(value))
            elif isinstance(value, list):
                _resize(modules[name], key, value, moved)
            else:
                setattr(modules[name], key, dict(value) if isinstance(value, dict) else value)


class _Fit:
    """The entries that a structure asks of a model.

    Of every width there are three: of the pruned model, of the dense one it was pruned from, and of
    the present model. If the latter two agree, the first counts.
    """

    def __init__(self, struct, current):
        self.pruned, self.current = struct["modules"], current
        self.dense = struct.get("dense")
        self.predictions = struct.get("prediction_layers")
        # How much wider, or narrower, predictions are than those of the pruned model.
        self.growth = {
            new - old
            for name, entry in self.pruned.items()
            if self.dense is not None and self._may_differ(name)
            for key in entry.keys() & current[name].keys()
            for old, new in zip(
                _flat(self._dense(name, key)).values(), _flat(current[name][key]).values()
            )
        }

    def entry(self, name, module):
        """The entry of one module.

        Raises:
            StructError: the structure is of another model, or contradicts itself.
        """
        entry, own = self.pruned[name], self.current[name]
        if entry.keys() != own.keys():
            odd = sorted(entry.keys() ^ own.keys())[0]
            raise StructError(f'the "struct" and the model differ in {name}.{odd}: {_REBUILD}.')
        wanted = {key: self._value(name, key, module) for key in entry}
        if not _agrees(wanted, module):
            raise StructError(
                f'the "struct" contradicts itself in {name} ({entry}): save the checkpoint again.'
            )
        return wanted

    def _value(self, name, key, module):
        pruned, own = self.pruned[name][key], self.current[name][key]
        dense = self._dense(name, key)
        widths = [_flat(value) for value in (pruned, dense, own)]
        found = [None]
        if widths[0].keys() == widths[1].keys() == widths[2].keys():
            found = [
                self._width(name, is_input(key, axis, module), *(each[axis] for each in widths))
                for axis in widths[2]
            ]
        if None in found:
            self._refuse(name, key, pruned, dense, own)
        if isinstance(own, dict):
            return dict(zip(own, found))
        return found if isinstance(own, list) else found[0]

    def _dense(self, name, key):
        if self.dense is None:
            return self.current[name][key]
        return self.dense.get(name, {}).get(key, self.pruned[name][key])

    def _width(self, name, is_input, pruned, dense, own):
        """One width of the present model; None if there is no right one."""
        if pruned > dense:
            return None
        if own == dense:
            return pruned
        if pruned == dense and (is_input or self._may_differ(name) or self._has_no_tensor(name)):
            return own
        grown = own - dense
        if (is_input or self._has_no_tensor(name)) and grown in self.growth:
            return pruned + grown if pruned + grown > 0 else None
        return None

    def _may_differ(self, name):
        """Whether the config decides the output width of a layer."""
        if self.predictions is not None:
            return name in self.predictions
        return not any(key in self.pruned[name] for key in NORM_WIDTHS)

    def _has_no_tensor(self, name):
        return not any(isinstance(value, list) for value in self.pruned[name].values())

    def _refuse(self, name, key, pruned, dense, own):
        if self.dense is None:
            raise StructError(
                f'the "struct" has {name}.{key} = {pruned}, the model has {own}, and pruning only '
                f"reduces widths: {_REBUILD} (class counts included)."
            )
        raise StructError(
            f'the "struct" has {name}.{key} = {pruned}, pruned from {dense}, and the model has '
            f"{own}: {_REBUILD}; only predictions (classes, anchors) may differ."
        )


def _flat(value):
    """The numbers in a value of an entry, by axis, by name, or under None."""
    if isinstance(value, dict):
        return value
    return dict(enumerate(value)) if isinstance(value, list) else {None: value}


def is_input_axis(module, axis):
    """Whether an axis of the weight of a conv or linear counts its inputs.

    Args:
        module (nn.Module): the layer.
        axis (int): of its weight.
    """
    return axis == (0 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 1)


def is_input(key, axis, module):
    """Whether a width in the entry of a module counts inputs.

    Args:
        key (str): of the entry.
        axis (int | None): of a shape.
        module (nn.Module): the module.
    """
    if key == "weight":
        return is_input_axis(module, axis)
    return key in INPUTS


def _compare_names(wanted, found):
    for name in wanted:
        if name not in found:
            raise StructError(
                f'the "struct" has a module {name!r} that the model lacks: {_REBUILD}.'
            )
    for name in found:
        if name not in wanted:
            raise StructError(
                f'the model has a module {name!r} that the "struct" lacks: {_REBUILD}.'
            )


def _agrees(entry, module):
    """Whether the widths of a layer fit the shapes of its tensors."""
    weight = entry.get("weight")
    if weight is None:
        return True
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return weight[:2] == [entry["in_channels"], entry["out_channels"] // entry["groups"]]
    if {"in_channels", "out_channels"} <= entry.keys():
        inputs = weight[1] * entry.get("groups", getattr(module, "groups", 1))
        return [weight[0], inputs] == [entry["out_channels"], entry["in_channels"]]
    if {"in_features", "out_features"} <= entry.keys():
        return weight == [entry["out_features"], entry["in_features"]]
    if "normalized_shape" in entry:
        return weight == entry["normalized_shape"]
    width = entry.get("num_features", entry.get("num_channels"))
    return width is None or all(v == [width] for v in entry.values() if isinstance(v, list))


def _resize(module, key, shape, moved):
    old = module._parameters.get(key)
    is_parameter = old is not None
    if not is_parameter:
        old = module._buffers[key]
    if list(old.shape) == shape:
        return
    if id(old) not in moved:  # a tensor that two modules share stays shared
        new, common = old.data.new_zeros(shape), tuple(map(slice, map(min, shape, old.shape)))
        new[common] = old.data[common]
        moved[id(old)] = nn.Parameter(new, old.requires_grad) if is_parameter else new, old
    setattr(module, key, moved[id(old)][0])
