"""Config keys of blendprune, in the manner of detectron2's projects."""

from .errors import ConfigError, StructError


def add_prune_config(cfg):
    """Add ``MODEL.PRUNE``, ``MODEL.FINETUNE`` and the ``PRUNER`` node; keys that exist are kept.

    Args:
        cfg (CfgNode): a detectron2 config, for example the one from ``get_cfg()``.
    """
    # Leave forward early with the raw, differentiable head outputs, so that a graph can be traced.
    _default(cfg.MODEL, "PRUNE", False)
    # Take the widths of the model from the "struct" of the checkpoint at MODEL.WEIGHTS.
    _default(cfg.MODEL, "FINETUNE", False)

    _default(cfg, "PRUNER", type(cfg)())
    # Exactly one of the next five is above 0; each is a fraction, 0 < x < 1.
    # Fraction of the channels to remove.
    _default(cfg.PRUNER, "PRUNING_RATIO", 0.0)
    # FLOPs to keep, as a fraction of the dense model's (one multiply-add is one FLOP).
    _default(cfg.PRUNER, "MAX_FLOPS", 0.0)
    # Parameters to keep, as a fraction of the dense model's.
    _default(cfg.PRUNER, "MAX_PARAMS", 0.0)
    # Activations (outputs of convs and linears) to keep, as a fraction of the dense model's.
    _default(cfg.PRUNER, "MAX_ACTIVATIONS", 0.0)
    # Latency to keep, as a fraction of the dense model's, measured on this machine.
    _default(cfg.PRUNER, "MAX_LATENCY", 0.0)
    # Which channels go first: see blendprune.pruning.IMPORTANCES.
    _default(cfg.PRUNER, "IMPORTANCE", "surgeon")
    # Divide scores by the "flops", "params" or "activations" that a channel frees; "": "surgeon"
    # and a SENSITIVITY by what the target counts, the others by nothing.
    _default(cfg.PRUNER, "NORMALIZE", "")
    # Fit the weights that are left to the features of the dense model on the calibration images;
    # scores that read no images leave them alone.
    _default(cfg.PRUNER, "RECONSTRUCT", True)
    # File of the measured sensitivity, by which it is decided how much of each group goes; it is
    # measured if it is not there. "": by the scores alone.
    _default(cfg.PRUNER, "SENSITIVITY", "")
    # Rank the channels of all layers together (True) or those of each layer alone (False).
    _default(cfg.PRUNER, "GLOBAL_PRUNING", True)
    # Rank the channels of groups of the same make-up together (arXiv:2407.04616).
    _default(cfg.PRUNER, "ISOMORPHIC", False)
    # Cut in this many steps, with new scores before each; 0: as few as leave 0.65 of what counts
    # each, or more.
    _default(cfg.PRUNER, "ROUNDS", 0)
    # Targets of the same kind on the way; a checkpoint is saved at each, after so many steps.
    _default(cfg.PRUNER, "LEVELS", [])
    # Widths become multiples of this number; 0 leaves them free.
    _default(cfg.PRUNER, "ROUND_TO", 0)
    # No layer loses more than this fraction of its channels.
    _default(cfg.PRUNER, "MAX_PRUNING_RATIO", 0.9)
    # Names of modules, or glob patterns of names, whose output width stays: ["*.fpn_output*"].
    _default(cfg.PRUNER, "IGNORED_LAYERS", [])
    # Pairs of a name or pattern and the fraction of the channels to remove there, whatever the
    # target; the last pair that names a layer counts: [["backbone.bottom_up.res2.*", 0.3]].
    _default(cfg.PRUNER, "PRUNING_RATIO_DICT", [])
    # Images of DATASETS.TRAIN from which data-driven scores and the reconstruction are computed.
    _default(cfg.PRUNER, "CALIBRATION_IMAGES", 64)
    # Iterations of the fine-tuning that the emitted config asks for, as a fraction of
    # SOLVER.MAX_ITER.
    _default(cfg.PRUNER, "FINETUNE_SCHEDULE", 0.5)
    # Whether the emitted config names the dense model as the teacher of the fine-tuning.
    _default(cfg.PRUNER, "FINETUNE_DISTILL", True)

    # Sparsity before a cut, in an ordinary training: the channels that matter least fade.
    _default(cfg.PRUNER, "SPARSITY", type(cfg)())
    # Rate of decay, in units of the learning rate, of a group's most important channel at the end
    # of the training; it grows from 0. 0: off.
    _default(cfg.PRUNER.SPARSITY, "STRENGTH", 0.0)
    # The least important channel decays 2^ALPHA times as fast.
    _default(cfg.PRUNER.SPARSITY, "ALPHA", 4.0)
    # Iterations between two rankings of the channels.
    _default(cfg.PRUNER.SPARSITY, "PERIOD", 100)

    # Pruning during a training, to the target above.
    _default(cfg.PRUNER, "GRADUAL", type(cfg)())
    # Iterations done before the first cut, before the last (0: off), and between two.
    _default(cfg.PRUNER.GRADUAL, "START", 1)
    _default(cfg.PRUNER.GRADUAL, "END", 0)
    _default(cfg.PRUNER.GRADUAL, "PERIOD", 100)

    # Distillation from the dense model while the pruned one is fine-tuned.
    _default(cfg.PRUNER, "DISTILLATION", type(cfg)())
    # Checkpoint of the dense model; "": off. Set when the model is pruned, it is the one that the
    # emitted config names.
    _default(cfg.PRUNER.DISTILLATION, "TEACHER", "")
    # Factors of loss_distill_features and loss_distill_heads.
    _default(cfg.PRUNER.DISTILLATION, "FEATURE_WEIGHT", 5.0)
    _default(cfg.PRUNER.DISTILLATION, "HEAD_WEIGHT", 1.0)


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


def basis_loss_config(cfg, struct):
    """Derive a config that builds the segmentation head if, and only if, the checkpoint has it.

    Args:
        cfg (CfgNode): of a BlendMask; left as it is.
        struct (dict): validated structure of the checkpoint.

    Returns:
        CfgNode: ``cfg`` with MODEL.BASIS_MODULE.LOSS_ON set, or ``cfg`` itself for a structure of
        another architecture, which :func:`blendprune.restructure` refuses.

    Raises:
        StructError: LOSS_ON is True, but the checkpoint has no segmentation head.
    """
    if struct["meta_architecture"] != cfg.MODEL.META_ARCHITECTURE:
        return cfg
    has_head = any(name.startswith("basis_module.seg_head.") for name in struct["modules"])
    if cfg.MODEL.BASIS_MODULE.LOSS_ON and not has_head:
        raise StructError(
            "MODEL.BASIS_MODULE.LOSS_ON is True, but the model was pruned without its segmentation "
            "head: prune with LOSS_ON True, or fine-tune with MODEL.BASIS_MODULE.LOSS_ON False."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BASIS_MODULE.LOSS_ON = has_head
    return cfg


def _default(node, key, value):
    if key not in node:
        node[key] = value
