"""Hooks for detectron2's trainers: sparsity, gradual pruning, and what a fine-tuning needs."""

from .attach import attach
from .best import KeepBest
from .distillation import Distillation
from .exact_resume import ExactResume
from .from_config import hooks_from_config
from .gradual import GradualPruning
from .sparsity import GroupSparsity
from .statistics import FixedStatistics

__all__ = [
    "Distillation",
    "ExactResume",
    "FixedStatistics",
    "GradualPruning",
    "GroupSparsity",
    "KeepBest",
    "attach",
    "hooks_from_config",
]
