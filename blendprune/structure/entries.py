"""A model's structure as plain data: the widths that pruning changes, per module.

A structure (the ``"struct"`` of a checkpoint) is a dict of str, int and list.
``torch.load(..., weights_only=True)`` reads it, and reading it executes nothing::

    {"format": "blendprune.struct", "version": 1,
     "meta_architecture": "BlendMask",
     "config": "MODEL:\\n  ...",                      # the YAML the model was built from, or ""
     "dense_size": 32301234, "size": 8912345,         # values in the state dict, dense and now
     "modules": {"backbone.bottom_up.stem.conv1":
                     {"in_channels": 3, "out_channels": 32, "groups": 1, "weight": [32, 3, 7, 7]},
                 "backbone": {"_out_feature_channels": {"p3": 128, "p4": 128}}, ...},
     # Of a pruned model; files of earlier versions lack both:
     "dense": {"backbone.bottom_up.stem.conv1": {"out_channels": 64, "weight": [64, 3, 7, 7]}, ...},
     "prediction_layers": ["proposal_generator.fcos_head.cls_logits", ...]}

In a module's entry, an int is an attribute. A list is the shape of one of the module's own tensors,
or the attribute ``normalized_shape``. A dict is an attribute that maps names to ints. Module names
are those of upstream's state dict, with and without the overlay or ``torch.compile``.

``"dense"`` holds what pruning changed, as it was before. ``"prediction_layers"`` are the layers
whose output width the config decides (classes, anchors): :mod:`blendprune.structure.widths` leaves
it to the model that is fine-tuned.
"""

import math
from itertools import chain
from typing import Any

import torch
from torch import nn

from ..checks import shown
from ..errors import StructError
from ..wrappers import given_model, is_compiled, plain_name, plain_state, unwrap

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
_MAX_CONFIG = 300_000


def structure_of(model: nn.Module) -> dict[str, Any]:
    """Describe a model, dense or pruned.

    Args:
        model (nn.Module): any model, wrapped or not (:func:`blendprune.wrappers.unwrap`).

    Returns:
        dict: the structure, see the module's docstring. :func:`blendprune.restructure` is its
        inverse.

    Raises:
        ConfigError: it is no model.
    """
    model = given_model(model)
    modules, size = entries_of(model), state_size(model)
    struct = {
        "format": FORMAT,
        "version": VERSION,
        "meta_architecture": type(model).__name__,
        "config": config_of(model),
        "dense_size": getattr(model, "blendprune_dense_size", size),
        "size": size,
        "modules": modules,
    }
    if not is_remembered_dense(model):
        return struct
    dense = _changed(dense_entries(model), modules)
    removed = sum(
        _numel(entry, key) - _numel(modules[name], key)
        for name, entry in dense.items()
        for key in entry
    )
    struct["dense_size"] = getattr(model, "blendprune_dense_size", size + removed)
    predictions = getattr(model, "blendprune_predictions", None)
    known = {} if predictions is None else {"prediction_layers": list(predictions)}
    return {**struct, "dense": dense, **known}


def remember(model, cfg):
    """Store the config and the dense size on a model, for a later :func:`structure_of`.

    Args:
        model (nn.Module): a model just built from ``cfg``, not pruned yet.
        cfg (CfgNode): the config it was built from. Of one of another kind nothing is stored.
    """
    model = unwrap(model)
    model.blendprune_config = cfg.dump() if hasattr(cfg, "dump") else ""
    model.blendprune_dense_size = state_size(model)


def is_remembered(model):
    """Whether :func:`remember` was called on the model."""
    return hasattr(unwrap(model), "blendprune_config")


def remember_dense(model, entries):
    """Store the widths of a model before its first pruning; a second call changes nothing.

    Args:
        model (nn.Module): just pruned or restructured.
        entries (dict): from :func:`entries_of`, before that.
    """
    model = unwrap(model)
    if not is_remembered_dense(model):
        model.blendprune_dense = entries


def is_remembered_dense(model):
    """Whether :func:`remember_dense` was called on the model."""
    return hasattr(unwrap(model), "blendprune_dense")


def dense_entries(model):
    """Widths of a model before its first pruning (dict): its own if it was not pruned."""
    model = unwrap(model)
    return getattr(model, "blendprune_dense", None) or entries_of(model)


def remember_predictions(model, names):
    """Store the layers whose output width the config decides.

    Args:
        model (nn.Module): any model.
        names (Iterable[str]): module names as of :func:`named_modules`.
    """
    unwrap(model).blendprune_predictions = list(names)


def config_of(model):
    """Return the config that :func:`remember` stored on a model.

    Args:
        model (nn.Module): any model, wrapped or not.

    Returns:
        str: the config as YAML, or ``""`` if none was stored.
    """
    return getattr(unwrap(model), "blendprune_config", "")


def state_size(model):
    """Count the values in a model's state dict."""
    return sum(t.numel() for t in plain_state(model).values() if isinstance(t, torch.Tensor))


def named_modules(model):
    """Yield ``(name, module)`` with the names of upstream's state dict.

    Two names differ from torch's: under the overlay, ``norm1`` of a BasicBlock is upstream's
    ``conv1.norm``; and a part inside ``torch.compile`` has the name that it has without.

    Args:
        model (nn.Module): not wrapped; its parts may be compiled.
    """
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if is_compiled(module):
            continue
        parent, _, leaf = name.rpartition(".")
        if leaf in BLOCK_NORMS:
            conv = getattr(modules[parent], BLOCK_NORMS[leaf], None)
            if getattr(conv, "norm", module) is None:
                name = f"{name[: -len(leaf)]}{BLOCK_NORMS[leaf]}.norm"
        yield plain_name(name), module


def separate_norms(block):
    """Make each conv's norm a child of its BasicBlock, right after the conv.

    The position matters: optimizers number parameters in module order, and resuming relies on it.

    Args:
        block (BasicBlock): with norms in its convs. A norm separated before gives way to the norm
            of a conv that came later.

    Returns:
        bool: whether there was a norm.
    """
    modules, norms = {}, {conv: norm for norm, conv in BLOCK_NORMS.items()}
    found = False
    for name, child in block._modules.items():
        if name not in modules:
            modules[name] = child
        norm = getattr(child, "norm", None) if name in norms else None
        if norm is not None:
            child.norm, modules[norms[name]], found = None, norm, True
    block._modules.clear()
    block._modules.update(modules)
    return found


def entries_of(model):
    """Widths and shapes of every module that has any.

    Args:
        model (nn.Module): any model, wrapped or not.

    Returns:
        dict[str, dict]: module name → entry, see the module's docstring.
    """
    modules = named_modules(unwrap(model))
    return {name: entry for name, module in modules if (entry := entry_of(module))}


def validate(struct):
    """Return ``struct`` if it is well-formed.

    Raises:
        StructError: it is malformed. Nothing was allocated or executed.
    """
    if not isinstance(struct, dict) or not _is(struct.get("format"), FORMAT):
        raise StructError(
            'this checkpoint has no blendprune "struct": save it with blendprune.apply() in '
            "effect, or set MODEL.FINETUNE False to load a dense model."
        )
    if not _is(struct.get("version"), VERSION):
        raise StructError(
            f'the "struct" has version {shown(struct.get("version"))}, this blendprune reads '
            f"{VERSION}: install the release that wrote the file."
        )
    for key, kind in (("config", str), ("modules", dict)):
        _require(isinstance(struct.get(key), kind), f"its {key!r} is not a {kind.__name__}")
    _require(_is_name(struct.get("meta_architecture")), "its 'meta_architecture' is not a name")
    _require(len(struct["config"]) <= _MAX_CONFIG, "its 'config' is too long")
    for key in ("size", "dense_size"):
        _require(_is_width(struct.get(key), 1 << 62), f"its {key!r} is not a positive int")
    _check_entries(struct["modules"])
    dense, predictions = struct.get("dense", {}), struct.get("prediction_layers", [])
    _require(isinstance(dense, dict), "its 'dense' is not a dict")
    _check_entries(dense)
    known = isinstance(predictions, list) and all(map(_is_name, predictions))
    _require(known, "its 'prediction_layers' are not a list of names")
    return struct


def _check_entries(modules):
    _require(len(modules) <= _MAX_MODULES, "it lists too many modules")
    for name, entry in modules.items():
        _require(_is_name(name), "a module's name is not a str")
        _require(isinstance(entry, dict), f"the entry of {name!r} is not a dict")
        for key, value in entry.items():
            _require(_is_name(key), f"a key of {name!r} is not a str")
            if key in WIDTHS:
                fits = _is_width(value)
            elif key in WIDTH_DICTS:
                fits = isinstance(value, dict) and all(map(_is_name, value))
                fits = fits and all(map(_is_width, value.values()))
            else:
                fits = isinstance(value, list) and len(value) <= _MAX_DIMS
                fits = fits and all(map(_is_width, value))
            if not fits:
                _require(False, f"{name}.{key} = {shown(value)} is not a width")


def is_pruned(struct):
    """Whether a validated structure is of a pruned model."""
    return struct["size"] < struct["dense_size"] or bool(struct.get("dense"))


def entry_of(module):
    """Widths of one module and shapes of its own tensors (dict), see the module's docstring."""
    tensors = chain(
        module._parameters.items(),
        ((k, v) for k, v in module._buffers.items() if k not in module._non_persistent_buffers_set),
    )
    # A property follows the layers by itself.
    own = [k for k in WIDTHS if not isinstance(getattr(type(module), k, None), property)]
    widths = {k: v for k in own if type(v := getattr(module, k, None)) is int}
    shapes = {k: list(t.shape) for k, t in tensors if t is not None and t.dim() > 0}
    dicts = {k: dict(v) for k in WIDTH_DICTS if isinstance(v := getattr(module, k, None), dict)}
    tuples = {k: list(v) for k in WIDTH_TUPLES if isinstance(v := getattr(module, k, None), tuple)}
    return {**widths, **shapes, **dicts, **tuples}


def _changed(before, now):
    """Those entries of ``before`` that differ now, and of them what differs."""
    pairs = ((name, before.get(name, entry), entry) for name, entry in now.items())
    found = {
        name: {key: value for key, value in old.items() if value != entry.get(key)}
        for name, old, entry in pairs
    }
    return {name: entry for name, entry in found.items() if entry}


def _numel(entry, key):
    """Numbers in a tensor; an attribute has none."""
    is_shape = isinstance(entry[key], list) and key not in WIDTH_TUPLES
    return math.prod(entry[key]) if is_shape else 0


def _is(value, wanted):
    # A tensor, which a file may have anywhere, has no truth.
    return type(value) is type(wanted) and value == wanted


def _is_name(value):
    return isinstance(value, str) and len(value) <= _MAX_NAME and value.isprintable()


def _is_width(value, limit=_MAX_WIDTH):
    return type(value) is int and 0 < value < limit


def _require(condition, problem):
    if not condition:
        raise StructError(
            f'the "struct" of this checkpoint is malformed: {problem}; save it again.'
        )
