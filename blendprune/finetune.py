"""The config that fine-tunes a pruned model, with a recipe that needs no tuning."""

import os

from .errors import ConfigError

# Of the fine-tuning's iterations.
_WARMUP = 0.1
# Of the dense training's learning rate, with a teacher, who holds the model, and without.
_TAUGHT, _UNTAUGHT = 1.0, 0.5


def finetune_config(cfg, output_dir):
    """Derive the config that fine-tunes what :func:`prune_from_config` writes to ``output_dir``.

    The recipe is in upstream's keys alone: the learning rate of the dense training, half of it
    without a teacher, for ``PRUNER.FINETUNE_SCHEDULE`` of the iterations, with a warm-up over the
    first tenth and a cosine down to the end, as a single schedule that starts from trained weights
    needs no steps. SOLVER.STEPS shrink likewise, for those who go back to them. Nothing stays
    frozen: Frozen BatchNorm becomes BatchNorm, as its statistics no longer fit, and FREEZE_AT is 0,
    as the cut has taken channels there, too.

    The dense model at MODEL.WEIGHTS teaches, or PRUNER.DISTILLATION.TEACHER if that is set, unless
    PRUNER.FINETUNE_DISTILL is False. Nothing else is kept of the ``PRUNER`` node.

    Args:
        cfg (CfgNode): config of the dense model's training, with the keys of ``add_prune_config``.
        output_dir (str): the folder with ``model_pruned.pth``.

    Returns:
        CfgNode: a new one.

    Raises:
        ConfigError: PRUNER.FINETUNE_SCHEDULE is no positive number.
    """
    cfg = cfg.clone()
    cfg.defrost()
    folder = os.path.abspath(output_dir)
    cfg.MODEL.PRUNE, cfg.MODEL.FINETUNE, dense = False, True, cfg.MODEL.WEIGHTS
    cfg.MODEL.WEIGHTS = os.path.join(folder, "model_pruned.pth")
    # The dense run's own folder holds a last_checkpoint that --resume would pick up.
    cfg.OUTPUT_DIR = os.path.join(folder, "finetune")
    if cfg.MODEL.RESNETS.NORM == "FrozenBN":
        cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0

    schedule = cfg.PRUNER.FINETUNE_SCHEDULE
    if not schedule > 0:
        raise ConfigError(
            f"PRUNER.FINETUNE_SCHEDULE is {schedule!r}: set it to the length of the fine-tuning as "
            "a fraction of SOLVER.MAX_ITER, for example 0.5."
        )
    distillation = cfg.PRUNER.DISTILLATION
    distillation.TEACHER = distillation.TEACHER or dense
    taught = cfg.PRUNER.FINETUNE_DISTILL and distillation.TEACHER
    solver = cfg.SOLVER
    solver.LR_SCHEDULER_NAME = "WarmupCosineLR"
    rate = _TAUGHT if taught else _UNTAUGHT
    solver.BASE_LR *= rate
    solver.BASE_LR_END *= rate
    solver.MAX_ITER = max(1, round(schedule * solver.MAX_ITER))
    solver.WARMUP_ITERS = round(_WARMUP * solver.MAX_ITER)
    solver.STEPS = tuple(round(schedule * step) for step in solver.STEPS)

    del cfg["PRUNER"]
    if taught:
        if os.path.isfile(distillation.TEACHER):
            distillation.TEACHER = os.path.abspath(distillation.TEACHER)
        cfg.PRUNER = type(cfg)({"DISTILLATION": distillation})
    return cfg
