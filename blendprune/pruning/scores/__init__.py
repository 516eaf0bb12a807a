"""Importance of channels: which go first."""

from . import activations, gradients, obs, weights  # noqa: F401  (they register what they define)
from .losses import accumulate_gradients, as_batches, mean_loss
from .normalize import NORMALIZERS, check_normalizer, normalize_scores
from .readers import channel_effect, readers
from .registry import IMPORTANCES, build_importance, importance_name, is_data_driven, score_groups

__all__ = [
    "IMPORTANCES",
    "NORMALIZERS",
    "accumulate_gradients",
    "as_batches",
    "build_importance",
    "channel_effect",
    "check_normalizer",
    "importance_name",
    "is_data_driven",
    "mean_loss",
    "normalize_scores",
    "readers",
    "score_groups",
]
