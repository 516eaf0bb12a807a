"""The config that fine-tunes a pruned model."""

import os

from .errors import ConfigError

# Warm-up, as a fraction of the fine-tuning's iterations.
_WARMUP = 0.1
# Learning-rate factor with and without distillation.
_DISTILLED, _ALONE = 1.0, 0.5


def finetune_config(cfg, output_dir):
    """Derive the config that fine-tunes the model :func:`prune_from_config` writes.

    The recipe uses upstream's keys only:

    - SOLVER.BASE_LR is that of the dense training, or half of it without a teacher.
    - SOLVER.MAX_ITER is multiplied by PRUNER.FINETUNE_SCHEDULE. So are SOLVER.STEPS, for step
      schedules; the default here is a warm-up over the first tenth, then a cosine to the end.
    - FrozenBN becomes BN, because pruning invalidates its statistics.
    - MODEL.BACKBONE.FREEZE_AT is 0, because pruning changes these stages, too.

    The teacher is PRUNER.DISTILLATION.TEACHER or, if that is empty, the dense model at
    MODEL.WEIGHTS. With PRUNER.FINETUNE_DISTILL False there is none. The other keys of the
    ``PRUNER`` node are dropped.

    Args:
        cfg (CfgNode): config of the dense model's training, with the keys of ``add_prune_config``.
        output_dir (str): the folder with ``model_pruned.pth``.

    Returns:
        CfgNode: a new one.

    Raises:
        ConfigError: PRUNER.FINETUNE_SCHEDULE is not positive.
    """
    cfg = cfg.clone()
    cfg.defrost()
    folder = os.path.abspath(output_dir)
    cfg.MODEL.PRUNE, cfg.MODEL.FINETUNE, dense = False, True, cfg.MODEL.WEIGHTS
    cfg.MODEL.WEIGHTS = os.path.join(folder, "model_pruned.pth")
    # Not the dense run's folder: --resume would pick up its last_checkpoint.
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
    distill = cfg.PRUNER.FINETUNE_DISTILL and distillation.TEACHER
    solver = cfg.SOLVER
    solver.LR_SCHEDULER_NAME = "WarmupCosineLR"
    factor = _DISTILLED if distill else _ALONE
    solver.BASE_LR *= factor
    solver.BASE_LR_END *= factor
    solver.MAX_ITER = max(1, round(schedule * solver.MAX_ITER))
    solver.WARMUP_ITERS = round(_WARMUP * solver.MAX_ITER)
    solver.STEPS = tuple(round(schedule * step) for step in solver.STEPS)

    del cfg["PRUNER"]
    if distill:
        if os.path.isfile(distillation.TEACHER):
            distillation.TEACHER = os.path.abspath(distillation.TEACHER)
        cfg.PRUNER = type(cfg)({"DISTILLATION": distillation})
    return cfg
