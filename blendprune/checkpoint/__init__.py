"""Checkpoints with a structure: read safely, loaded, converted, compared with a model."""

from .reading import (
    build_mode,
    checkpoint_id,
    extras,
    module_names,
    read_checkpoint,
    read_plain,
    read_struct,
    struct_in,
)

__all__ = [
    "build_mode",
    "checkpoint_id",
    "extras",
    "module_names",
    "read_checkpoint",
    "read_plain",
    "read_struct",
    "struct_in",
]
