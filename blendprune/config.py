"""Config keys of blendprune, in the manner of detectron2's projects."""

from .errors import ConfigError


def add_prune_config(cfg):
    """Add ``MODEL.PRUNE``, ``MODEL.FINETUNE`` and the ``PRUNER`` node; keys that exist are kept.

    Args:
        cfg (CfgNode): a detectron2 config, for example the one from ``get_cfg()``.
    """
    # Leave forward early with the raw, differentiable head outputs, so that a graph can be traced.
    cfg.MODEL.setdefault("PRUNE", False)
    # Take the widths of the model from the "struct" of the checkpoint at MODEL.WEIGHTS.
    cfg.MODEL.setdefault("FINETUNE", False)

    pruner = cfg.setdefault("PRUNER", type(cfg)())
    # Exactly one of the next five is above 0; each is a fraction, 0 < x < 1.
    # Fraction of the channels to remove.
    pruner.setdefault("PRUNING_RATIO", 0.0)
    # FLOPs to keep, as a fraction of the dense model's (one multiply-add is one FLOP).
    pruner.setdefault("MAX_FLOPS", 0.0)
    # Parameters to keep, as a fraction of the dense model's.
    pruner.setdefault("MAX_PARAMS", 0.0)
    # Activations (outputs of convs and linears) to keep, as a fraction of the dense model's.
    pruner.setdefault("MAX_ACTIVATIONS", 0.0)
    # Latency to keep, as a fraction of the dense model's, measured on this machine.
    pruner.setdefault("MAX_LATENCY", 0.0)
    # Which channels go first: see blendprune.pruning.IMPORTANCES.
    pruner.setdefault("IMPORTANCE", "surgeon")
    # Divide scores by the "flops", "params" or "activations" that a channel frees; "": "surgeon"
    # and a SENSITIVITY by what the target counts, the others by nothing.
    pruner.setdefault("NORMALIZE", "")
    # Fit the weights that are left to the features of the dense model on the calibration images;
    # scores that read no images leave them alone.
    pruner.setdefault("RECONSTRUCT", True)
    # File of the measured sensitivity, by which it is decided how much of each group goes; it is
    # measured if it is not there. "": by the scores alone.
    pruner.setdefault("SENSITIVITY", "")
    # Rank the channels of all layers together (True) or those of each layer alone (False).
    pruner.setdefault("GLOBAL_PRUNING", True)
    # Rank the channels of groups of the same make-up together (arXiv:2407.04616).
    pruner.setdefault("ISOMORPHIC", False)
    # Cut in this many steps, with new scores before each; 0: as few as leave 0.65 of what counts
    # each, or more.
    pruner.setdefault("ROUNDS", 0)
    # Targets of the same kind on the way; a checkpoint is saved at each, after so many steps.
    pruner.setdefault("LEVELS", [])
    # Widths become multiples of this number; 0 leaves them free.
    pruner.setdefault("ROUND_TO", 0)
    # No layer loses more than this fraction of its channels.
    pruner.setdefault("MAX_PRUNING_RATIO", 0.9)
    # Names of modules, or glob patterns of names, whose output width stays: ["*.fpn_output*"].
    pruner.setdefault("IGNORED_LAYERS", [])
    # Pairs of a name or pattern and the fraction of the channels to remove there, whatever the
    # target; the last pair that names a layer counts: [["backbone.bottom_up.res2.*", 0.3]].
    pruner.setdefault("PRUNING_RATIO_DICT", [])
    # Images of DATASETS.TRAIN from which data-driven scores and the reconstruction are computed.
    pruner.setdefault("CALIBRATION_IMAGES", 64)
    # Iterations of the fine-tuning that the emitted config asks for, as a fraction of
    # SOLVER.MAX_ITER.
    pruner.setdefault("FINETUNE_SCHEDULE", 0.5)
    # Whether the emitted config names the dense model as the teacher of the fine-tuning.
    pruner.setdefault("FINETUNE_DISTILL", True)

    # Sparsity before a cut, in an ordinary training: the channels that matter least fade.
    sparsity = pruner.setdefault("SPARSITY", type(cfg)())
    # Rate of decay, in units of the learning rate, of a group's most important channel at the end
    # of the training; it grows from 0. 0: off.
    sparsity.setdefault("STRENGTH", 0.0)
    # The least important channel decays 2^ALPHA times as fast.
    sparsity.setdefault("ALPHA", 4.0)
    # Iterations between two rankings of the channels.
    sparsity.setdefault("PERIOD", 100)

    # Pruning during a training, to the target above.
    gradual = pruner.setdefault("GRADUAL", type(cfg)())
    # Iterations done before the first cut, before the last (0: off), and between two.
    gradual.setdefault("START", 1)
    gradual.setdefault("END", 0)
    gradual.setdefault("PERIOD", 100)

    # Distillation from the dense model while the pruned one is fine-tuned.
    distillation = pruner.setdefault("DISTILLATION", type(cfg)())
    # Checkpoint of the dense model; "": off. Set when the model is pruned, it is the one that the
    # emitted config names.
    distillation.setdefault("TEACHER", "")
    # Factors of loss_distill_features and loss_distill_heads.
    distillation.setdefault("FEATURE_WEIGHT", 5.0)
    distillation.setdefault("HEAD_WEIGHT", 1.0)


def prune_mode(cfg):
    """Read ``MODEL.PRUNE`` and ``MODEL.FINETUNE``.

    Args:
        cfg (CfgNode): with or without the two keys.

    Returns:
        tuple[bool, bool]: prune, finetune.

    Raises:
        ConfigError: one is not a bool, both are set, or FINETUNE has no weights to go by.
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
