"""Importance of channels: which go first."""

# They register the importances that they define.
from . import activations, gradients, obs, weights  # noqa: F401
from .batches import as_batches, first_batches, split_batches
from .losses import accumulate_gradients, mean_loss, try_training
from .normalize import NORMALIZERS, check_normalizer, normalize_scores
from .registry import (
    IMPORTANCES,
    Importance,
    build_importance,
    importance_name,
    is_data_driven,
    score_groups,
)

__all__ = [
    "IMPORTANCES",
    "Importance",
    "NORMALIZERS",
    "accumulate_gradients",
    "as_batches",
    "build_importance",
    "check_normalizer",
    "first_batches",
    "importance_name",
    "is_data_driven",
    "mean_loss",
    "normalize_scores",
    "score_groups",
    "split_batches",
    "try_training",
]
