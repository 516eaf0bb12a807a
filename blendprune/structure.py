"""A model's structure as plain data: the widths that pruning changes, per module.

A structure (the ``"struct"`` of a checkpoint) is a dict of str, int and list.
``torch.load(..., weights_only=True)`` reads it, and reading it executes nothing::

    {"format": "blendprune.struct", "version": 1,
     "meta_architecture": "BlendMask",
     "config": "MODEL:\\n  ...",                      # the YAML the model was built from, or ""
     "dense_size": 32301234, "size": 8912345,         # values in the state dict, dense and now
     "modules": {"backbone.bottom_up.stem.conv1":
                     {"in_channels": 3, "out_channels": 32, "groups": 1, "weight": [32, 3, 7, 7]},
                 "backbone": {"_out_feature_channels": {"p3": 128, "p4": 128}}, ...}}

In a module's entry, an int is an attribute. A list is the shape of one of the module's own tensors,
or the attribute ``normalized_shape``. A dict is an attribute that maps names to ints. Module names
are those of upstream's state dict, with and without the overlay.
"""

from itertools import chain

import torch
from torch import nn

from .errors import StructError

FORMAT = "blendprune.struct"
VERSION = 1

#: Attributes that are widths if they are ints, on any module.
WIDTHS = (
    "in_channels",
    "out_channels",
    "groups",
    "num_features",
    "num_channels",
    "num_groups",
    "in_features",
    "out_features",
    "in_channels_to_top_module",
    "num_heads",
)
#: Attributes that are tuples of widths.
WIDTH_TUPLES = ("normalized_shape",)
#: Attributes that map names to widths.
WIDTH_DICTS = ("_out_feature_channels",)

#: Norms of a BasicBlock under the overlay, and the conv that holds each one upstream.
BLOCK_NORMS = {"norm3": "shortcut", "norm1": "conv1", "norm2": "conv2"}

_MAX_MODULES, _MAX_NAME, _MAX_DIMS, _MAX_WIDTH = 100_000, 512, 8, 1 << 31


def structure_of(model):
    """Describe a model, dense or pruned.

    Args:
        model (nn.Module): any model, DDP-wrapped or not.

    Returns:
        dict: the structure, see the module's docstring. :func:`restructure` is its inverse.
    """
    model = unwrap(model)
    size = state_size(model)
    return {
        "format": FORMAT,
        "version": VERSION,
        "meta_architecture": type(model).__name__,
        "config": config_of(model),
        "dense_size": getattr(model, "blendprune_dense_size", size),
        "size": size,
        "modules": {
            name: entry for name, module in named_modules(model) if (entry := _entry(module))
        },
    }


def remember(model, cfg):
    """Store the config and the dense size on a model, for a later :func:`structure_of`.

    Args:
        model (nn.Module): a model just built from ``cfg``, not pruned yet.
        cfg (CfgNode): the config it was built from.
    """
    model.blendprune_config = cfg.dump()
    model.blendprune_dense_size = state_size(model)


def is_remembered(model):
    """Whether :func:`remember` was called on the model."""
    return hasattr(model, "blendprune_config")


def config_of(model):
    """Return the config that :func:`remember` stored on a model.

    Args:
        model (nn.Module): any model, DDP-wrapped or not.

    Returns:
        str: the config as YAML, or ``""`` if none was stored.
    """
    return getattr(unwrap(model), "blendprune_config", "")


def unwrap(model):
    """Return the model inside a DataParallel or DistributedDataParallel wrapper."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else model


def state_size(model):
    """Count the values in a model's state dict."""
    return sum(t.numel() for t in model.state_dict().values() if isinstance(t, torch.Tensor))


def named_modules(model):
    """Yield ``(name, module)`` with the names of upstream's state dict.

    Only a BasicBlock under the overlay differs: its ``norm1`` is upstream's ``conv1.norm``.
    """
    modules = dict(model.named_modules())
    for name, module in modules.items():
        parent, _, leaf = name.rpartition(".")
        if leaf in BLOCK_NORMS:
            conv = getattr(modules[parent], BLOCK_NORMS[leaf], None)
            if getattr(conv, "norm", module) is None:
                name = f"{name[: -len(leaf)]}{BLOCK_NORMS[leaf]}.norm"
        yield name, module


def restructure(model, struct):
    """Reshape a dense model in place to the widths of a structure.

    Call it before the optimizer and DDP exist. Everything is checked before anything changes.
    Weights keep their leading slice; load the checkpoint's weights afterwards.

    Args:
        model (nn.Module): dense, of the same architecture and config.
        struct (dict): from :func:`structure_of`, possibly through a file.

    Raises:
        StructError: ``struct`` is malformed or belongs to another model.
    """
    model = unwrap(model)
    struct = validate(struct)
    if struct["meta_architecture"] != type(model).__name__:
        raise StructError(
            f'the "struct" is of a {struct["meta_architecture"]}, but the model is a '
            f"{type(model).__name__}: set MODEL.META_ARCHITECTURE to {struct['meta_architecture']}."
        )
    current = {name: (module, _entry(module)) for name, module in named_modules(model)}
    _compare_names(struct["modules"], {name for name, (_, entry) in current.items() if entry})
    for name, entry in struct["modules"].items():
        _compare_entry(name, entry, *current[name])

    moved = {}
    for name, entry in struct["modules"].items():
        module = current[name][0]
        for key, value in entry.items():
            if key in WIDTH_TUPLES:
                setattr(module, key, tuple(value))
            elif isinstance(value, list):
                _shrink(module, key, value, moved)
            else:
                setattr(module, key, dict(value) if isinstance(value, dict) else value)
    # Imported here because it needs detectron2.
    from .modeling.attention import fit_heads

    fit_heads(model)


def validate(struct):
    """Return ``struct`` if it is well-formed.

    Raises:
        StructError: it is malformed. Nothing was allocated or executed.
    """
    if not isinstance(struct, dict) or struct.get("format") != FORMAT:
        raise StructError(
            'this checkpoint has no blendprune "struct": save it with blendprune.apply() in '
            "effect, or set MODEL.FINETUNE False to load a dense model."
        )
    if struct.get("version") != VERSION:
        raise StructError(
            f'the "struct" has version {struct.get("version")!r}, this blendprune reads {VERSION}: '
            "install the release that wrote the file."
        )
    for key, kind in (("meta_architecture", str), ("config", str), ("modules", dict)):
        _require(isinstance(struct.get(key), kind), f"its {key!r} is not a {kind.__name__}")
    for key in ("size", "dense_size"):
        _require(_is_width(struct.get(key), 1 << 62), f"its {key!r} is not a positive int")
    _require(len(struct["modules"]) <= _MAX_MODULES, "it lists too many modules")
    for name, entry in struct["modules"].items():
        _require(isinstance(name, str) and len(name) <= _MAX_NAME, "a module's name is not a str")
        _require(isinstance(entry, dict), f"the entry of {name!r} is not a dict")
        for key, value in entry.items():
            _require(isinstance(key, str), f"a key of {name!r} is not a str")
            if isinstance(value, list):
                fits = len(value) <= _MAX_DIMS and all(map(_is_width, value))
            elif isinstance(value, dict):
                fits = key in WIDTH_DICTS and all(map(_is_width, value.values()))
            else:
                fits = key in WIDTHS and _is_width(value)
            _require(fits, f"{name}.{key} = {str(value)[:40]} is not a width")
    return struct


def is_pruned(struct):
    """Whether a validated structure is of a pruned model."""
    return struct["size"] < struct["dense_size"]


def _entry(module):
    tensors = chain(
        module._parameters.items(),
        ((k, v) for k, v in module._buffers.items() if k not in module._non_persistent_buffers_set),
    )
    widths = {k: v for k in WIDTHS if type(v := getattr(module, k, None)) is int}
    shapes = {k: list(t.shape) for k, t in tensors if t is not None and t.dim() > 0}
    dicts = {k: dict(v) for k in WIDTH_DICTS if isinstance(v := getattr(module, k, None), dict)}
    tuples = {k: list(v) for k in WIDTH_TUPLES if isinstance(v := getattr(module, k, None), tuple)}
    return {**widths, **shapes, **dicts, **tuples}


def _compare_names(wanted, found):
    for name in wanted:
        if name not in found:
            raise StructError(
                f'the "struct" has a module {name!r} that the model lacks: build the model from '
                "the config the checkpoint was pruned with."
            )
    for name in found:
        if name not in wanted:
            raise StructError(
                f'the model has a module {name!r} that the "struct" lacks: build the model from '
                "the config the checkpoint was pruned with."
            )


def _compare_entry(name, entry, module, dense):
    if entry.keys() != dense.keys():
        odd = sorted(entry.keys() ^ dense.keys())[0]
        raise StructError(
            f'the "struct" and the model differ in {name}.{odd}: build the model from the config '
            "the checkpoint was pruned with."
        )
    for key, value in entry.items():
        if isinstance(value, dict):
            fits = value.keys() == dense[key].keys()
            pairs = [(v, dense[key].get(k, 0)) for k, v in value.items()]
        elif isinstance(value, list):
            fits = isinstance(dense[key], list) and len(value) == len(dense[key])
            pairs = list(zip(value, dense[key])) if fits else []
        else:
            fits, pairs = isinstance(dense[key], int), [(value, dense[key])]
        if not fits or any(new > old for new, old in pairs):
            raise StructError(
                f'the "struct" has {name}.{key} = {value}, the model has {dense[key]}, and '
                "pruning only reduces widths: build the model from the config the checkpoint was "
                "pruned with (class counts included)."
            )
    if not _agrees(entry, module):
        raise StructError(
            f'the "struct" contradicts itself in {name} ({entry}): save the checkpoint again.'
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


def _shrink(module, key, shape, moved):
    old = module._parameters.get(key)
    is_parameter = old is not None
    if not is_parameter:
        old = module._buffers[key]
    if list(old.shape) == shape:
        return
    if id(old) not in moved:  # a tensor that two modules share stays shared
        new = old.data[tuple(slice(n) for n in shape)].clone()
        moved[id(old)] = nn.Parameter(new, old.requires_grad) if is_parameter else new, old
    setattr(module, key, moved[id(old)][0])


def _is_width(value, limit=_MAX_WIDTH):
    return type(value) is int and 0 < value < limit


def _require(condition, problem):
    if not condition:
        raise StructError(
            f'the "struct" of this checkpoint is malformed: {problem}; save it again.'
        )
