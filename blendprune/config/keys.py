"""Config keys of blendprune."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import yaml

from ..errors import ConfigError
from .plain import MAX_CHARACTERS, read_plain_yaml
from .target import TARGETS

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def add_prune_config(cfg: CfgNode) -> None:
    """Add ``MODEL.PRUNE``, ``MODEL.FINETUNE`` and the ``PRUNER`` node; keys that exist are kept.

    Args:
        cfg (CfgNode): a detectron2 config, for example the one from ``get_cfg()``.

    Raises:
        ConfigError: it is no such config.
    """
    if not hasattr(cfg, "MODEL"):
        raise ConfigError(
            f"add_prune_config got a {type(cfg).__name__} without a MODEL node: pass what "
            "detectron2's get_cfg() returns."
        )
    # With a target: a training script prunes instead of training. Without: forward returns the raw
    # head outputs, with gradients, so that a graph can be traced.
    cfg.MODEL.setdefault("PRUNE", False)
    # Build the model with the widths in the "struct" of the checkpoint at MODEL.WEIGHTS.
    cfg.MODEL.setdefault("FINETUNE", False)

    pruner = cfg.setdefault("PRUNER", type(cfg)())
    # Targets. Set exactly one of these six to a fraction, 0 < x < 1. The last two also take a
    # number.

    # Fraction of the channels to remove.
    pruner.setdefault("PRUNING_RATIO", 0.0)
    # FLOPs to keep, as a fraction of those of the model at MODEL.WEIGHTS, dense or pruned before
    # (one multiply-add is one FLOP).
    pruner.setdefault("MAX_FLOPS", 0.0)
    # Parameters to keep, as a fraction of those of that model.
    pruner.setdefault("MAX_PARAMS", 0.0)
    # Activations (outputs of convs and linears) to keep, as a fraction of that model's.
    pruner.setdefault("MAX_ACTIVATIONS", 0.0)
    # Peak memory of the activations to keep, as a fraction of that model's, or in megabytes
    # (10^6 bytes) from 1.0 on.
    pruner.setdefault("MAX_MEMORY", 0.0)
    # Latency to keep, as a fraction of that model's, or in milliseconds from 1.0 on; measured on
    # this machine.
    pruner.setdefault("MAX_LATENCY", 0.0)

    # How to prune.

    # The form in which latency is measured: "eager", "deployed", "bfloat16", "float16", "compiled",
    # "onnxruntime" or "openvino".
    pruner.setdefault("RUNTIME", "eager")
    # Importance score; the lowest scores are pruned first. See blendprune.pruning.IMPORTANCES.
    pruner.setdefault("IMPORTANCE", "obs")
    # Divide each score by the "flops", "params" or "activations" that removing the channel saves.
    # "": the target's unit for "obs" and with SENSITIVITY, otherwise no division.
    pruner.setdefault("NORMALIZE", "")
    # Refit the remaining weights to the dense model's outputs on the calibration images. Scores
    # that use no images skip this.
    pruner.setdefault("RECONSTRUCT", True)
    # File with a measured sensitivity, which decides how much of each group is pruned. It is
    # measured and written if the file is absent. "": the scores alone decide.
    pruner.setdefault("SENSITIVITY", "")
    # Rank the channels of all layers together (True) or per layer (False).
    pruner.setdefault("GLOBAL_PRUNING", True)
    # Rank channels only among groups of the same structure (arXiv:2407.04616).
    pruner.setdefault("ISOMORPHIC", False)
    # Number of pruning rounds, with new scores before each. 0: the fewest rounds of which each
    # keeps at least 65 % of the cost.
    pruner.setdefault("ROUNDS", 0)
    # Earlier targets of the same kind. Each is reached in ROUNDS rounds and saved as a checkpoint.
    pruner.setdefault("LEVELS", [])
    # Prune to widths that are multiples of this number; 1: any width. None or "auto": the multiple
    # that MODEL.DEVICE runs well.
    pruner.setdefault("ROUND_TO", None)
    # Largest fraction of its channels that any layer may lose.
    pruner.setdefault("MAX_PRUNING_RATIO", 0.9)
    # Modules that keep their output width, as names or glob patterns: ["*.fpn_output*"].
    pruner.setdefault("IGNORED_LAYERS", [])
    # Pairs of a name or glob pattern and the fraction of channels to remove there, independent of
    # the target. The last pair that matches a layer counts: [["backbone.bottom_up.res2.*", 0.3]].
    pruner.setdefault("PRUNING_RATIO_DICT", [])
    # Folder of pictures without labels for data-driven scores and the reconstruction: what the
    # model detects in them serves as labels. "": images of DATASETS.TRAIN.
    pruner.setdefault("IMAGE_FOLDER", "")
    # Number of images for data-driven scores and the reconstruction.
    pruner.setdefault("CALIBRATION_IMAGES", 64)

    # Fine-tuning, in the config that `prune` emits.

    # Length of the fine-tuning in the emitted config, as a fraction of SOLVER.MAX_ITER.
    pruner.setdefault("FINETUNE_SCHEDULE", 0.5)
    # Fine-tune with the dense model as the teacher, in the emitted config.
    pruner.setdefault("FINETUNE_DISTILL", False)
    # While fine-tuning (MODEL.FINETUNE True): batch norms keep their running statistics.
    pruner.setdefault("FIXED_STATISTICS", True)
    # While fine-tuning (MODEL.FINETUNE True): evaluate the start and every checkpoint that the
    # training evaluates, and leave the best one as model_final.pth.
    pruner.setdefault("KEEP_BEST", True)
    # Schedule of the dense training, which `prune` records in the emitted config: a model that is
    # pruned again gets a fine-tuning of the same length.
    pruner.setdefault("DENSE_TRAINING", type(cfg)(new_allowed=True))
    # Which pruned checkpoint `prune` wrote the emitted config with; empty: any.
    pruner.setdefault("CHECKPOINT_ID", "")

    # Group sparsity during the dense training: the least important channels decay.
    sparsity = pruner.setdefault("SPARSITY", type(cfg)())
    # Decay rate of a group's most important channel at the end of the training, in units of the
    # learning rate. It grows from 0 during the training. 0: off.
    sparsity.setdefault("STRENGTH", 0.0)
    # The least important channel decays 2^ALPHA times as fast.
    sparsity.setdefault("ALPHA", 4.0)
    # Iterations between two rankings of the channels.
    sparsity.setdefault("PERIOD", 100)

    # Gradual pruning: prune during the training, to the target above.
    gradual = pruner.setdefault("GRADUAL", type(cfg)())
    # Iterations before the first pruning step.
    gradual.setdefault("START", 1)
    # Iterations before the last pruning step. 0: off.
    gradual.setdefault("END", 0)
    # Iterations between two pruning steps.
    gradual.setdefault("PERIOD", 100)

    # Distillation from the dense model during fine-tuning.
    distillation = pruner.setdefault("DISTILLATION", type(cfg)())
    # Checkpoint of the teacher. "": off. If set when pruning, the emitted config keeps it, whatever
    # FINETUNE_DISTILL says.
    distillation.setdefault("TEACHER", "")
    # Weight of loss_distill_features.
    distillation.setdefault("FEATURE_WEIGHT", 5.0)
    # Weight of loss_distill_heads.
    distillation.setdefault("HEAD_WEIGHT", 1.0)


def prune_mode(cfg):
    """Read ``MODEL.PRUNE`` and ``MODEL.FINETUNE``.

    Args:
        cfg (CfgNode): with or without the two keys.

    Returns:
        tuple[bool, bool]: prune, finetune.

    Raises:
        ConfigError: a key is not a bool, both are True, or FINETUNE is True without MODEL.WEIGHTS.
    """
    flags = [cfg.MODEL.get(key, False) for key in ("PRUNE", "FINETUNE")]
    for key, flag in zip(("PRUNE", "FINETUNE"), flags):
        if not isinstance(flag, bool):
            raise ConfigError(f"MODEL.{key} is {flag!r}: set it to True or False.")
    if all(flags):
        raise ConfigError(
            "MODEL.PRUNE and MODEL.FINETUNE are both set: prune first (PRUNE True), then fine-tune "
            "the file it wrote (FINETUNE True, PRUNE False)."
        )
    if flags[1] and not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            "finetuning model need a model file! Set MODEL.WEIGHTS to a pruned checkpoint, or "
            "MODEL.FINETUNE False."
        )
    return tuple(flags)


def prunes_in_script(cfg):
    """Whether a training script with this config prunes its model instead of training it.

    That is ``MODEL.PRUNE True`` with a target in the ``PRUNER`` node. Without a target,
    ``MODEL.PRUNE`` makes ``forward`` return the raw head outputs.

    Args:
        cfg (CfgNode): with or without the keys of :func:`add_prune_config`.
    """
    asked = cfg.MODEL.get("PRUNE", False) is True
    return asked and any(cfg.get("PRUNER", {}).get(kind.upper()) for kind in TARGETS)


def asks_for_hooks(cfg):
    """The keys of the ``PRUNER`` node that switch on a hook of :mod:`blendprune.training`.

    Args:
        cfg (CfgNode): with or without the keys of :func:`add_prune_config`.

    Returns:
        list[str]: those that are set; empty by default.
    """
    node = cfg.get("PRUNER", {})
    keys = (("SPARSITY", "STRENGTH"), ("GRADUAL", "END"), ("DISTILLATION", "TEACHER"))
    found = [f"PRUNER.{group}.{key}" for group, key in keys if node.get(group, {}).get(key)]
    if cfg.MODEL.get("FINETUNE"):
        found += [f"PRUNER.{key}" for key in ("FIXED_STATISTICS", "KEEP_BEST") if node.get(key)]
    return found


def asks_the_loop(cfg):
    """Whether a config asks for something that a training loop has to do: prune, or run hooks.

    Args:
        cfg (object): a config, or something else, which asks for nothing.
    """
    known = hasattr(cfg, "get") and hasattr(getattr(cfg, "MODEL", None), "get")
    return known and bool(prunes_in_script(cfg) or asks_for_hooks(cfg))


def find_moved(cfg, path):
    """Correct the paths of an emitted config whose folder was moved or copied.

    If ``MODEL.FINETUNE`` is set, the file at ``MODEL.WEIGHTS`` is gone, and one of its name lies
    beside the config, or beside a ``_BASE_`` of it, that one is meant. ``OUTPUT_DIR`` and the
    teacher move along if they were in the same folder.

    Args:
        cfg (CfgNode): just merged from the file; changed in place.
        path (str): the config file.
    """
    model = cfg.get("MODEL", {})
    weights = model.get("WEIGHTS", "")
    if model.get("FINETUNE") is not True or not weights or os.path.exists(weights):
        return
    old, name = os.path.split(weights)
    found = (folder for folder in _folders(path) if os.path.isfile(os.path.join(folder, name)))
    new = next(found, None) if "://" not in weights else None
    if new is None:
        return
    model["WEIGHTS"] = os.path.join(new, name)
    for node, key in ((cfg, "OUTPUT_DIR"), (cfg.get("PRUNER", {}).get("DISTILLATION"), "TEACHER")):
        if node and (node.get(key) or "").startswith(old + os.sep):
            node[key] = new + node[key][len(old) :]


def _folders(path, most=8):
    """Folders of a config file, of what it links to, and of the files that it builds on."""
    yield os.path.dirname(os.path.abspath(path))
    yield os.path.dirname(os.path.realpath(path))
    try:
        with open(path) as file:
            bases = read_plain_yaml(file.read(MAX_CHARACTERS + 1)).get("_BASE_") or []
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return  # what is wrong with it, whoever reads the config says
    for base in [bases] if isinstance(bases, str) else bases if isinstance(bases, list) else ():
        base = os.path.join(os.path.dirname(path), os.path.expanduser(str(base)))
        yield from _folders(base, most - 1) if most else ()
