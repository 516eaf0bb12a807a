"""From a checkpoint: the widths of a model, or the whole model."""

import torch
from torch import nn

from ..errors import (
    BlendpruneError,
    CheckpointError,
    ConfigError,
    StructError,
    error_line,
    first_line,
)
from ..first_forward import forget_first_forward
from ..structure import entries_of, is_pruned, named_modules, remember
from ..structure.shapes import structure_of_weights
from ..structure.widths import restructure, set_entries
from ..wrappers import given_model, name_as, unwrap
from .reading import read_checkpoint, struct_in, weights_in


def load(
    path: str, *, model: nn.Module | None = None, device: str | torch.device | None = None
) -> nn.Module:
    """Rebuild a model from a checkpoint alone: first the structure, then the weights (strict).

    The file may come from anyone: no code of it runs, and no file that it names is opened. Its
    config chooses among the classes that are registered with detectron2 already.

    Args:
        path (str): a checkpoint saved under the overlay; any path detectron2's PathManager reads.
        model (nn.Module): the dense model, if it was not built from a detectron2 config. With it,
            the file needs no structure: its weights tell the widths.
        device (str | torch.device): defaults to the GPU if the config names one that is here, or
            else to the CPU.

    Returns:
        nn.Module: the model in eval mode.

    Raises:
        CheckpointError: the file is missing, unreadable, or contradicts its own structure.
        StructError: the structure is missing, malformed, or of another model.
        ConfigError: ``model`` is no model, or ``device`` cannot be used here.
    """
    if model is not None:
        given_model(model)
    if device is not None:
        check_device(device, "device", "pass device='cpu'")
    return load_read(read_checkpoint(path), path, model, device)


def load_read(checkpoint, path, model=None, device=None):
    """Load what was read already; see :func:`load`.

    Args:
        checkpoint (dict): from :func:`blendprune.checkpoint.read_checkpoint`.
        path (str): of its file, for messages.
        model (nn.Module), device (str): as for :func:`load`.

    Returns:
        nn.Module: the model in eval mode.
    """
    given = model is not None
    if model is None:
        model = build_read(checkpoint, path, device)
    elif device is not None:
        model.to(device)
    restructure_from(model, checkpoint)
    weights = name_as(weights_in(checkpoint), model)
    if given:
        _refuse_other_predictions(weights, model, path)
    try:
        model.load_state_dict(weights)
    except Exception as error:  # modules that load a state of their own have many
        raise CheckpointError(
            f'the weights in {path} do not fit its own "struct" ({first_line(error)}): '
            "the file was altered; save it again from the original model."
        ) from None
    return model.eval()


def build_read(checkpoint, path, device=None):
    """Build the dense model of a checkpoint's config, of a size that its weights explain.

    Args:
        checkpoint (dict): from :func:`blendprune.checkpoint.read_checkpoint`.
        path (str): of its file, for messages.
        device (str): as for :func:`load`.

    Returns:
        nn.Module: with random weights, in training mode.

    Raises:
        StructError: there is no structure, or its config builds no model here.
    """
    struct = struct_in(checkpoint)
    if struct is None:
        raise StructError(
            f'{path!r} has no "struct": pass the dense model, load(path, model=…), or build it '
            "under MODEL.FINETUNE True with MODEL.WEIGHTS set to the file."
        )
    return _build_dense(struct, weights_in(checkpoint), device, path)


def check_device(device, name, otherwise):
    """Refuse a device that cannot be used here.

    Args:
        device (str): to check.
        name (str): what the message calls it.
        otherwise (str): what the message says to do.

    Raises:
        ConfigError: torch cannot use it.
    """
    # torch alone knows which devices there are, and says so with errors of several kinds.
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(
            f"{name} is {device!r}, which cannot be used here ({first_line(error)}): {otherwise}."
        ) from None


def restructure_from(model, checkpoint, strict=True):
    """Give a dense model the widths of a checkpoint; load the weights afterwards.

    They are those of its ``"struct"``, or those that its weights have: a pruned file that lost its
    structure still fine-tunes.

    Args:
        model (nn.Module): dense, wrapped or not; the number of classes and anchors may differ.
        checkpoint (dict): from :func:`blendprune.checkpoint.read_checkpoint`.
        strict (bool): False leaves the model alone if there is no ``"struct"`` and the weights are
            of another model, for example an ImageNet backbone.

    Raises:
        StructError: the ``"struct"`` is malformed or of another model; or there is none, and the
            weights are not those of this model or of a narrower one.
    """
    struct = struct_in(checkpoint)
    if struct is not None:
        # Built from a config and not pruned: whatever differs does so by the configs.
        known_dense = struct["config"] and not is_pruned(struct)
        restructure(model, {**struct, "dense": {}} if known_dense else struct)
        return
    try:
        _restructure_by_weights(unwrap(model), weights_in(checkpoint))
    except StructError:
        if strict:
            raise


def adopt_predictions(model, checkpoint):
    """Give prediction layers the output widths of a file: it is of other classes or anchors.

    The model no longer fits its config; it is for its raw outputs only (a teacher).

    Args:
        model (nn.Module): dense; it carries its config.
        checkpoint (dict): with ``"model"``; left alone if these are not weights of this model.
    """
    modules = dict(named_modules(model))
    try:
        found = structure_of_weights(model, weights_in(checkpoint))["modules"]
    except StructError:
        return
    set_entries(modules, {name: found[name] for name in _predictions(model) if name in found})


def _restructure_by_weights(model, weights):
    # Imported here: a model that is only loaded needs no Torch-Pruning.
    from ..pruning.tracing.attributes import sync_attributes

    if structure_of_weights(model, weights)["modules"] == entries_of(model):
        return
    struct = structure_of_weights(model, weights, _predictions(model))
    try:
        restructure(model, struct)
    except StructError as error:
        raise StructError(
            f'the checkpoint has no "struct", and its weights do not fit this config\'s model '
            f"({first_line(error)}): set MODEL.WEIGHTS to a checkpoint of this model, or "
            "MODEL.FINETUNE False to start from other weights."
        ) from None
    sync_attributes(model)


def _predictions(model):
    """Names of the prediction layers, where the model carries a config to trace it with."""
    from ..pruning.graph.inputs import config_inputs, small_inputs
    from ..pruning.graph.outputs import prediction_layers
    from ..pruning.tracing.hooks import evaluating
    from ..pruning.tracing.view import prunable

    inputs = config_inputs(model)
    if inputs is None:
        return []
    with prunable(model), evaluating(model):
        layers = prediction_layers(model, small_inputs(model, inputs))
    return [name for name, module in named_modules(model) if module in layers]


def _refuse_other_predictions(weights, model, path):
    """Refuse weights of a model with other classes: what runs must be trained."""
    own = model.state_dict()
    for key, value in weights.items():
        # What set_extra_state takes may be anything.
        known = isinstance(own.get(key), torch.Tensor)
        if known and tuple(own[key].shape) != tuple(getattr(value, "shape", ())):
            raise CheckpointError(
                f"{path} has {key} of {tuple(getattr(value, 'shape', ()))}, and the model wants "
                f"{tuple(own[key].shape)}: give load(path, model=…) a model with the classes of "
                "the file; to fine-tune it on others, call restructure(model, struct), then "
                "DetectionCheckpointer(model).load(path)."
            )


def _build_dense(struct, weights, device, path):
    from detectron2.config import CfgNode
    from detectron2.modeling import build_model

    from .. import modeling
    from ..config import add_prune_config
    from ..config.defaults import default_cfg
    from ..config.plain import read_plain_yaml
    from .limits import refuse_large_numbers, sized_by

    if not struct["config"]:
        raise StructError(f"{path} has no config: pass the dense model, load(path, model=…).")
    modeling.register()
    cfg = default_cfg()
    add_prune_config(cfg)
    cfg.set_new_allowed(True)
    try:
        cfg.merge_from_other_cfg(CfgNode(read_plain_yaml(struct["config"])))
    except Exception as error:  # yaml and yacs raise many types
        raise StructError(
            f"the config in {path} cannot be read ({first_line(error)}): pass the dense model, "
            "load(path, model=…)."
        ) from None
    refuse_large_numbers(cfg.MODEL, path)
    cfg.MODEL.DEVICE = str(device or _device_of(cfg))
    cfg.MODEL.PRUNE = cfg.MODEL.FINETUNE = False
    cfg.MODEL.WEIGHTS = ""
    if cfg.MODEL.META_ARCHITECTURE != struct["meta_architecture"]:
        raise StructError(
            f"the config in {path} builds a {cfg.MODEL.META_ARCHITECTURE}, but its structure is of "
            f"a {struct['meta_architecture']}: the file was altered; save it again from the "
            "original model."
        )
    try:
        with sized_by(weights, path):
            model = build_model(cfg)
    except BlendpruneError:
        raise
    except Exception as error:  # upstream's builders have many
        raise StructError(
            f"the config in {path} builds no {struct['meta_architecture']} here "
            f"({error_line(error)}): import the modules that register its parts, or pass the dense "
            "model, load(path, model=…)."
        ) from None
    remember(model, cfg)
    forget_first_forward(model)  # the training that the config asks for is over
    return model


def _device_of(cfg):
    """The device of a config from a file, if it is a GPU and here; else the CPU."""
    try:
        device = torch.device(cfg.MODEL.DEVICE)
        check_device(str(device), "", "")
    except (ConfigError, RuntimeError, TypeError):
        return "cpu"
    return "cpu" if device.type == "meta" else str(device)
