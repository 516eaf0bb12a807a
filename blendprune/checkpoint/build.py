"""From a config: the model, its trained weights, and the arguments of ``blendprune.prune``."""

import copy
import dataclasses
import inspect
import re

import torch
from fvcore.common.registry import Registry

from .. import modeling, structure
from ..checks import check_count, similar
from ..config.target import TARGETS, Target
from ..errors import BlendpruneError, CheckpointError, ConfigError, first_line
from ..first_forward import forget_first_forward
from ..pruning.search.options import PruningOptions, check_rounds
from .loading import adopt_predictions, check_device, restructure_from
from .reading import read_checkpoint

_UNREGISTERED = re.compile(r"No object named '(.+)' found in '(\w+)' registry")


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

    check_device(cfg.MODEL.DEVICE, "MODEL.DEVICE", "set MODEL.DEVICE cpu")
    modeling.register()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.PRUNE = cfg.MODEL.FINETUNE = False
    try:
        model = build_model(cfg)
    except BlendpruneError:
        raise
    except Exception as error:  # upstream's builders have many
        raise ConfigError(_no_build(cfg.MODEL.META_ARCHITECTURE, error)) from error
    structure.remember(model, cfg)
    forget_first_forward(model)  # no script trains this one
    return model


def watch_loading(model):
    """Record from now on which weights of a model no file has filled, for :func:`check_loaded`.

    Args:
        model (nn.Module): with random weights.
    """
    model.blendprune_load_record = record = _LoadRecord()
    model.register_load_state_dict_post_hook(record)


def check_loaded(model, path):
    """Make sure that a training script has filled a model with trained weights.

    Args:
        model (nn.Module): best one that :func:`watch_loading` has seen. Any other must have the
            weights of ``path``.
        path (str): MODEL.WEIGHTS.

    Raises:
        ConfigError: MODEL.WEIGHTS is empty, or the model has other weights than that file.
        CheckpointError: the file cannot be read, or lacks weights that the model has.
    """
    record = getattr(model, "blendprune_load_record", None)
    if record is not None and record.missing is not None:
        _refuse_missing(path, record.missing)
        return
    if not path:
        raise ConfigError("MODEL.WEIGHTS is empty: set it to the trained model to prune.")
    filled = copy.deepcopy(model)
    _load_weights(filled, path)
    for (name, wanted), found in zip(filled.state_dict().items(), model.state_dict().values()):
        if not torch.equal(wanted, found):
            raise ConfigError(
                f"the model has other weights than {path!r} (at {name}) when its training begins: "
                "load MODEL.WEIGHTS before, for example by trainer.resume_or_load()."
            )


class _LoadRecord:
    """A hook of ``load_state_dict``: the keys that no call has filled; None before the first."""

    def __init__(self):
        self.missing = None

    def __call__(self, model, incompatible):
        missing = set(incompatible.missing_keys)
        self.missing = missing if self.missing is None else self.missing & missing


def prune_arguments(cfg, function):
    """The ``PRUNER`` node as arguments of a function that prunes.

    Args:
        cfg (CfgNode): with the keys of ``add_prune_config``.
        function (Callable): :func:`blendprune.prune`, or one with arguments of the same names.

    Returns:
        dict: the target and every other argument that is a key of the node.

    Raises:
        ConfigError: not exactly one target is set, or an argument is invalid for any model.
    """
    node = cfg.PRUNER
    check_count("PRUNER.CALIBRATION_IMAGES", node.CALIBRATION_IMAGES)
    keys = [kind.upper() for kind in TARGETS]
    targets = {key.lower(): node[key] for key in keys if node[key] != 0.0}
    if len(targets) != 1:
        raise ConfigError(
            f"{len(targets) or 'none'} of {', '.join(f'PRUNER.{key}' for key in keys)} set: "
            "set exactly one, to a fraction between 0 and 1."
        )
    rest = arguments_of(function, cfg)
    rest = {name: rest[name] for name in rest if name not in TARGETS}
    _refuse_invalid(Target.only(targets), rest)
    return targets | rest


def _refuse_invalid(target, arguments):
    """What pruning itself refuses first, but before a model is built."""
    target.levels(arguments.get("levels", ()))
    check_rounds(arguments.get("rounds"))
    names = {field.name for field in dataclasses.fields(PruningOptions)}
    options = PruningOptions(**{k: v for k, v in arguments.items() if k in names})
    options.check_target(target)


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


def _no_build(name, error):
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else first_line(error)
    if missing := _UNREGISTERED.search(text):
        thing, registry = missing.groups()
        return (
            f"cannot build {name}: {thing!r} is not registered in {registry}"
            f"{similar(thing, _registered(registry))}: correct the config, or import the module "
            "that registers it (--import MODULE)"
        )
    return (
        f"cannot build {name} from this config ({type(error).__name__}: {text}): check its MODEL "
        "keys"
    )


def _registered(registry):
    """Names in a registry of detectron2."""
    from detectron2 import modeling as upstream

    found = (each for each in vars(upstream).values() if isinstance(each, Registry))
    return [name for each in found if each._name == registry for name, _ in each]


def _load_weights(model, path, other_predictions=False):
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
        raise CheckpointError(
            f"cannot load {path!r} ({first_line(error)}): check MODEL.WEIGHTS."
        ) from None
    missing = [key for key, _, _ in recorder.incompatible.incorrect_shapes]
    _refuse_missing(path, [*recorder.incompatible.missing_keys, *missing])


def _refuse_missing(path, keys):
    missing = sorted(key for key in keys if not key.endswith("num_batches_tracked"))
    if missing:
        raise CheckpointError(
            f"{path!r} lacks {len(missing)} weights of this config's model ({missing[0]}, …): set "
            "MODEL.WEIGHTS to the trained model, not to the backbone it started from."
        )
