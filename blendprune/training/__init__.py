"""Hooks for detectron2's trainers: sparsity before pruning, gradual pruning, distillation."""

from .distillation import Distillation
from .from_config import hooks_from_config
from .gradual import GradualPruning
from .sparsity import GroupSparsity

__all__ = ["Distillation", "GradualPruning", "GroupSparsity", "hooks_from_config"]
