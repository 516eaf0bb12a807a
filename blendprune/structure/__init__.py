"""A model's structure as plain data, and models of another structure."""

from .entries import (
    BLOCK_NORMS,
    FORMAT,
    config_of,
    dense_entries,
    entries_of,
    entry_of,
    is_pruned,
    is_remembered,
    named_modules,
    remember,
    remember_dense,
    remember_predictions,
    separate_norms,
    state_size,
    structure_of,
    validate,
)

__all__ = [
    "BLOCK_NORMS",
    "FORMAT",
    "config_of",
    "dense_entries",
    "entries_of",
    "entry_of",
    "is_pruned",
    "is_remembered",
    "named_modules",
    "remember",
    "remember_dense",
    "remember_predictions",
    "separate_norms",
    "state_size",
    "structure_of",
    "validate",
]
