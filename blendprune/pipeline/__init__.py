"""From a config and trained weights to three files; the same inside a training script."""

from .export import export_checkpoint, export_from_config
from .from_config import (
    plan_from_config,
    prune_from_config,
    sensitivity_from_config,
)

__all__ = [
    "export_checkpoint",
    "export_from_config",
    "plan_from_config",
    "prune_from_config",
    "sensitivity_from_config",
]
