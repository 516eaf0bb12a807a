"""The zoo of both upstreams' configs; ``python -m tests.zoo`` runs them all."""

from .batches import training_batch
from .configs import PROJECTS, load_config
from .models import (
    allow_any_score,
    assert_same,
    build_dense,
    draw_mask_encoding,
    few_regions,
    load_again,
    prune_and_use,
    settle_norms,
    tensors_of,
    train_one_step,
)

__all__ = [
    "PROJECTS",
    "allow_any_score",
    "assert_same",
    "build_dense",
    "draw_mask_encoding",
    "few_regions",
    "load_again",
    "load_config",
    "prune_and_use",
    "settle_norms",
    "tensors_of",
    "train_one_step",
    "training_batch",
]
