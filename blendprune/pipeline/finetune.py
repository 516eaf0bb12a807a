"""The config that fine-tunes a pruned model."""

import math
import os

from ..errors import ConfigError
from ..pruning import build_importance, is_data_driven

# Warm-up, as a fraction of the fine-tuning's iterations.
_WARMUP = 0.1
# Learning-rate factor with distillation, and the largest one without.
_DISTILLED, _ALONE = 1.0, 0.5
# Evaluations of the fine-tuning, at least, the last one included.
_EVALUATIONS = 4
# Keys that say how many stages stay as they are.
_STAGES = ("FREEZE_AT", "FROZEN_STAGES")
# Keys of the SOLVER node that depend on the length of the training.
_SOLVER = (
    "BASE_LR",
    "BASE_LR_END",
    "CHECKPOINT_PERIOD",
    "LR_SCHEDULER_NAME",
    "MAX_ITER",
    "STEPS",
    "WARMUP_ITERS",
)


def finetune_config(cfg, output_dir):
    """Derive the config that fine-tunes the model :func:`prune_from_config` writes.

    The recipe uses upstream's keys:

    - SOLVER.BASE_LR is the dense training's, times PRUNER.FINETUNE_SCHEDULE, but at most half of
      it: a short training cannot make good what a large rate undoes. With a teacher it is all of
      it.
    - SOLVER.MAX_ITER is multiplied by PRUNER.FINETUNE_SCHEDULE. So are SOLVER.STEPS, for step
      schedules; the default here is a warm-up over the first tenth, then a cosine to the end.
    - FrozenBN becomes BN in every key of the MODEL node: its scale and shift have to learn.
    - MODEL.BACKBONE.FREEZE_AT is 0, because pruning changes these stages, too. Backbones that want
      another value get it by :func:`blendprune.pipeline.trial.try_config`.
    - PRUNER.FIXED_STATISTICS is True, so that norms keep their statistics, if the weights were
      reconstructed: by PRUNER.RECONSTRUCT, with a PRUNER.IMPORTANCE that takes data. Otherwise the
      statistics no longer fit, and training changes them.
    - With PRUNER.KEEP_BEST, TEST.EVAL_PERIOD and SOLVER.CHECKPOINT_PERIOD are at most a quarter of
      the iterations.

    Of the ``PRUNER`` node, KEEP_BEST, FIXED_STATISTICS and FINETUNE_SCHEDULE stay. DENSE_TRAINING
    records the dense training's schedule. Where it is already recorded (MODEL.WEIGHTS was pruned
    and fine-tuned before), the recipe derives from the record, not from the shorter schedule of
    that fine-tuning.

    There is no teacher by default. PRUNER.DISTILLATION.TEACHER names one. With
    PRUNER.FINETUNE_DISTILL True it is, if that is empty, the dense model at MODEL.WEIGHTS.

    Args:
        cfg (CfgNode): config of the dense model's training, with the keys of ``add_prune_config``.
        output_dir (str): the folder with ``model_pruned.pth``.

    Returns:
        CfgNode: a new one.

    Raises:
        ConfigError: PRUNER.FINETUNE_SCHEDULE is not positive, or PRUNER.DENSE_TRAINING lacks a key.
    """
    cfg = cfg.clone()
    cfg.defrost()
    folder = os.path.abspath(output_dir)
    cfg.MODEL.PRUNE, cfg.MODEL.FINETUNE, dense = False, True, cfg.MODEL.WEIGHTS
    cfg.MODEL.WEIGHTS = os.path.join(folder, "model_pruned.pth")
    # Not the dense run's folder: --resume would pick up its last_checkpoint.
    cfg.OUTPUT_DIR = os.path.join(folder, "finetune")
    for key, value in freezing_keys(cfg).items():
        cfg.merge_from_list([key, "BN" if value == "FrozenBN" else 0])

    pruner = cfg.PRUNER
    distillation = pruner.DISTILLATION
    if pruner.FINETUNE_DISTILL:
        distillation.TEACHER = distillation.TEACHER or dense
    training = _dense_training(cfg)
    alone = min(_ALONE, pruner.FINETUNE_SCHEDULE)
    _shorten(cfg, training, _DISTILLED if distillation.TEACHER else alone)

    reconstructed = pruner.RECONSTRUCT and is_data_driven(build_importance(pruner.IMPORTANCE))
    kept = {
        "KEEP_BEST": pruner.KEEP_BEST,
        "FIXED_STATISTICS": bool(pruner.FIXED_STATISTICS and reconstructed),
        "FINETUNE_SCHEDULE": pruner.FINETUNE_SCHEDULE,
    }
    del cfg["PRUNER"]
    cfg.PRUNER = type(cfg)({**kept, "DENSE_TRAINING": training})
    if distillation.TEACHER:
        if os.path.isfile(distillation.TEACHER):
            distillation.TEACHER = os.path.abspath(distillation.TEACHER)
        cfg.PRUNER.DISTILLATION = distillation
    return cfg


def freezing_keys(cfg):
    """Keys of the MODEL node that freeze norms or stages.

    Args:
        cfg (CfgNode): any config.

    Returns:
        dict[str, str | int]: full name → value: every key that says FrozenBN, and every FREEZE_AT
        or FROZEN_STAGES.
    """
    return dict(_freezing_keys(cfg.MODEL, "MODEL"))


def _freezing_keys(node, name):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _freezing_keys(value, f"{name}.{key}")
        elif value == "FrozenBN" or (key in _STAGES and type(value) is int):
            yield f"{name}.{key}", value


def _solver_keys(cfg):
    # detectron2 0.6 has no BASE_LR_END: its cosine always ends at 0.
    return [key for key in _SOLVER if key in cfg.SOLVER]


def _dense_training(cfg):
    """The schedule of the dense training: as recorded, else that of the config itself."""
    recorded = cfg.PRUNER.DENSE_TRAINING
    if not recorded:
        return type(cfg)(
            {
                "SOLVER": {key: cfg.SOLVER[key] for key in _solver_keys(cfg)},
                "TEST": {"EVAL_PERIOD": cfg.TEST.EVAL_PERIOD},
            }
        )
    wanted = {"SOLVER": _solver_keys(cfg), "TEST": ("EVAL_PERIOD",)}
    for node, keys in wanted.items():
        for key in keys:
            if key not in recorded.get(node, ()):
                raise ConfigError(
                    f"PRUNER.DENSE_TRAINING lacks {node}.{key}: leave the node as blendprune "
                    "wrote it, or remove it, so that the schedule of this config counts as the "
                    "dense training's."
                )
    return recorded.clone()


def _shorten(cfg, training, rate):
    """Give a config the schedule of the fine-tuning."""
    schedule, solver, dense = cfg.PRUNER.FINETUNE_SCHEDULE, cfg.SOLVER, training.SOLVER
    if not schedule > 0:
        raise ConfigError(
            f"PRUNER.FINETUNE_SCHEDULE is {schedule!r}: set it to the length of the fine-tuning as "
            "a fraction of SOLVER.MAX_ITER, for example 0.5."
        )
    solver.LR_SCHEDULER_NAME = "WarmupCosineLR"
    solver.BASE_LR = rate * dense.BASE_LR
    if "BASE_LR_END" in solver:
        solver.BASE_LR_END = rate * dense.BASE_LR_END
    solver.MAX_ITER = max(1, round(schedule * dense.MAX_ITER))
    solver.WARMUP_ITERS = round(_WARMUP * solver.MAX_ITER)
    solver.STEPS = tuple(round(schedule * step) for step in dense.STEPS)
    solver.CHECKPOINT_PERIOD = dense.CHECKPOINT_PERIOD
    cfg.TEST.EVAL_PERIOD = training.TEST.EVAL_PERIOD
    if cfg.PRUNER.KEEP_BEST:
        period = math.ceil(solver.MAX_ITER / _EVALUATIONS)
        solver.CHECKPOINT_PERIOD = min(period, solver.CHECKPOINT_PERIOD)
        # 0 is never.
        cfg.TEST.EVAL_PERIOD = min(period, max(0, cfg.TEST.EVAL_PERIOD) or period)
