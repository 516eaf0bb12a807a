"""From a config: the model, its trained weights, and the arguments of ``blendprune.prune``."""

import inspect

import torch

from . import modeling, structure
from .checkpoint import first_line, read_checkpoint
from .errors import CheckpointError, ConfigError
from .loading import adopt_predictions, restructure_from
from .target import TARGETS


def build_trained(cfg, other_predictions=False):
    """Build the model of a config and load its trained weights; a pruned model keeps its widths.

    Args:
        cfg (CfgNode): with MODEL.WEIGHTS set; MODEL.PRUNE and MODEL.FINETUNE do not matter.
        other_predictions (bool): allow weights of other classes or anchors: the model then has the
            prediction layers of the file.

    Returns:
        nn.Module: in training mode, as detectron2 builds it.

    Raises:
        ConfigError: MODEL.WEIGHTS is empty, or MODEL.DEVICE cannot be used here.
        CheckpointError: the file cannot be read, or lacks weights that the model has.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("MODEL.WEIGHTS is empty: set it to the trained model to prune.")
    model = build_dense(cfg)
    _load_weights(model, cfg.MODEL.WEIGHTS, other_predictions)
    return model


def build_dense(cfg):
    """Build the dense model of a config, with random weights.

    Args:
        cfg (CfgNode): MODEL.PRUNE and MODEL.FINETUNE do not matter.

    Returns:
        nn.Module: in training mode, as detectron2 builds it; it carries its config.

    Raises:
        ConfigError: a name is not registered, or MODEL.DEVICE cannot be used here.
    """
    from detectron2.modeling import build_model

    _check_device(cfg)
    modeling.register()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.PRUNE = cfg.MODEL.FINETUNE = False
    try:
        model = build_model(cfg)
    except KeyError as error:
        raise ConfigError(f"cannot build {cfg.MODEL.META_ARCHITECTURE}: {error}.") from None
    structure.remember(model, cfg)
    return model


def prune_arguments(cfg, function):
    """The ``PRUNER`` node as arguments of a function that prunes.

    Args:
        cfg (CfgNode): with the keys of ``add_prune_config``.
        function (Callable): :func:`blendprune.prune`, or one with arguments of the same names.

    Returns:
        dict: the target and every other argument that is a key of the node.

    Raises:
        ConfigError: not exactly one target is set.
    """
    node = cfg.PRUNER
    keys = [kind.upper() for kind in TARGETS]
    targets = {key.lower(): node[key] for key in keys if node[key] != 0.0}
    if len(targets) != 1:
        raise ConfigError(
            f"{len(targets) or 'none'} of {', '.join(f'PRUNER.{key}' for key in keys)} set: "
            "set exactly one, to a fraction between 0 and 1."
        )
    rest = arguments_of(function, cfg)
    return targets | {name: rest[name] for name in rest if name not in TARGETS}


def arguments_of(function, cfg):
    """The arguments of a function that are keys of the ``PRUNER`` node.

    Args:
        function (Callable): its arguments have the names of the keys, in lower case.
        cfg (CfgNode): with the keys of ``add_prune_config``.

    Returns:
        dict: argument → value.
    """
    names = inspect.signature(function).parameters
    return {name: cfg.PRUNER[name.upper()] for name in names if name.upper() in cfg.PRUNER}


def _check_device(cfg):
    # torch alone knows which devices there are, and says so with errors of several kinds.
    try:
        torch.empty(0, device=cfg.MODEL.DEVICE)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, which cannot be used here "
            f"({first_line(error)}): set MODEL.DEVICE cpu."
        ) from None


def _load_weights(model, path, other_predictions):
    from detectron2.checkpoint import DetectionCheckpointer

    class Recorder(DetectionCheckpointer):
        def _load_model(self, checkpoint):
            if other_predictions:
                adopt_predictions(self.model, checkpoint)
            restructure_from(self.model, checkpoint, strict=False)
            self.incompatible = super()._load_model(checkpoint)
            return self.incompatible

    if not path.endswith(".pkl"):  # detectron2's own conversions read those
        read_checkpoint(path.partition("?")[0])
    recorder = Recorder(model, save_to_disk=False)
    try:
        recorder.load(path)
    except CheckpointError:
        raise
    except Exception as error:  # fvcore, pickle and PathManager have many
        raise CheckpointError(f"cannot load {path!r} ({first_line(error)}).") from None
    lacking = [
        key for key in recorder.incompatible.missing_keys if not key.endswith("num_batches_tracked")
    ]
    lacking += [key for key, _, _ in recorder.incompatible.incorrect_shapes]
    if lacking:
        raise CheckpointError(
            f"{path!r} lacks {len(lacking)} weights of this config's model ({lacking[0]}, …): set "
            "MODEL.WEIGHTS to the trained model, not to the backbone it started from."
        )
