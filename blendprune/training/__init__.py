"""Hooks for detectron2's trainers: sparsity, gradual pruning, distillation, the best model."""

from .attach import attach
from .best import KeepBest
from .distillation import Distillation
from .from_config import hooks_from_config
from .gradual import GradualPruning
from .sparsity import GroupSparsity

__all__ = [
    "Distillation",
    "GradualPruning",
    "GroupSparsity",
    "KeepBest",
    "attach",
    "hooks_from_config",
]
