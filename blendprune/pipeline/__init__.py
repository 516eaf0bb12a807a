"""From a config and trained weights to three files; the same inside a training script."""

from .from_config import (
    plan_from_config,
    prune_from_config,
    sensitivity_from_config,
)

__all__ = [
    "plan_from_config",
    "prune_from_config",
    "sensitivity_from_config",
]
