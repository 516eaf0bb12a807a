"""The hooks that a config asks for."""

import weakref

from ..config import add_prune_config, prunes_in_script
from ..errors import CheckpointError, ConfigError
from ..wrappers import unwrap

_built = weakref.WeakSet()


def has_trainer(model):
    """Whether a trainer that runs its hooks has some of :func:`hooks_from_config` for a model.

    A trainer whose ``train`` is a loop of its own may have hooks and never run them.

    Args:
        model (nn.Module): not wrapped.
    """
    for hook in list(_built):
        try:
            trainer = hook.trainer
            # Upstream's train() sets its storage before the hooks begin.
            if hasattr(trainer, "storage") and unwrap(trainer.model) is model:
                return True
        except ReferenceError:  # that trainer is gone
            continue
    return False


def hooks_from_config(cfg):
    """Build the hooks that the ``PRUNER`` node switches on.

    ``PRUNER.SPARSITY.STRENGTH`` above 0: :class:`GroupSparsity`. ``PRUNER.GRADUAL.END`` above 0:
    :class:`GradualPruning`, to the target and with the score of the node.
    ``PRUNER.DISTILLATION.TEACHER`` set: :class:`Distillation` from that file, a trained model of
    this config, with or without ``"struct"``; the classes may be others. MODEL.FINETUNE and
    ``PRUNER.FIXED_STATISTICS``: :class:`FixedStatistics`; and ``PRUNER.KEEP_BEST``:
    :class:`KeepBest`. Both are on by default, unless one of the first two hooks is on.
    With any of these, or MODEL.FINETUNE, the first one is :class:`ExactResume`.
    ``MODEL.PRUNE`` with a target: :class:`PruneInstead` alone, because nothing is trained.

    Args:
        cfg (CfgNode): of the training; keys that it lacks have their defaults.

    Returns:
        list[HookBase]: for ``trainer.register_hooks``; empty by default.

    Raises:
        ConfigError: a key is invalid.
        CheckpointError: the teacher's file cannot be read, or is of another model.
    """
    # Not at the top: with patches/ applied, detectron2's engine imports this module.
    from ..checkpoint.build import prune_arguments
    from .best import KeepBest
    from .distillation import Distillation
    from .exact_resume import ExactResume
    from .gradual import GradualPruning
    from .prune_hook import PruneInstead
    from .sparsity import GroupSparsity
    from .statistics import FixedStatistics

    cfg = cfg.clone()
    cfg.defrost()
    add_prune_config(cfg)
    if prunes_in_script(cfg):
        return [PruneInstead()]
    node, hooks = cfg.PRUNER, []
    if node.SPARSITY.STRENGTH:
        hooks.append(
            GroupSparsity(
                node.SPARSITY.STRENGTH,
                alpha=node.SPARSITY.ALPHA,
                period=node.SPARSITY.PERIOD,
                ignored_layers=tuple(node.IGNORED_LAYERS),
            )
        )
    if node.GRADUAL.END:
        if node.MAX_LATENCY:
            raise ConfigError(
                "PRUNER.GRADUAL takes only targets that can be counted: set PRUNER.MAX_FLOPS "
                "instead of PRUNER.MAX_LATENCY."
            )
        if node.SENSITIVITY:
            raise ConfigError(
                "PRUNER.SENSITIVITY is valid for the weights that it was measured with, but "
                "PRUNER.GRADUAL prunes while the weights change: leave one of them out."
            )
        hooks.append(
            GradualPruning(
                node.GRADUAL.START,
                node.GRADUAL.END,
                node.GRADUAL.PERIOD,
                images=node.CALIBRATION_IMAGES,
                **prune_arguments(cfg, GradualPruning),
            )
        )
    if node.DISTILLATION.TEACHER:
        hooks.append(
            Distillation(
                _teacher(cfg),
                feature_weight=node.DISTILLATION.FEATURE_WEIGHT,
                head_weight=node.DISTILLATION.HEAD_WEIGHT,
            )
        )
    changes_the_model = node.SPARSITY.STRENGTH or node.GRADUAL.END
    if cfg.MODEL.FINETUNE and not changes_the_model:
        if node.FIXED_STATISTICS:
            hooks.append(FixedStatistics())
        if node.KEEP_BEST:
            hooks.append(KeepBest())
    if hooks or cfg.MODEL.FINETUNE:
        hooks.insert(0, ExactResume())
    _built.update(hooks)
    return hooks


def _teacher(cfg):
    """The teacher, with the classes that it was trained on."""
    from ..checkpoint import read_checkpoint, struct_in
    from ..checkpoint.build import build_trained
    from ..checkpoint.loading import load

    path = cfg.MODEL.WEIGHTS = cfg.PRUNER.DISTILLATION.TEACHER
    try:
        if not path.endswith(".pkl"):
            struct = struct_in(read_checkpoint(path))
            if struct is not None and struct["config"]:
                return load(path, device=cfg.MODEL.DEVICE)
        return build_trained(cfg, other_predictions=True)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} It is PRUNER.DISTILLATION.TEACHER: set that to the dense model's file, or to "
            "'' to fine-tune without a teacher."
        ) from None
