"""Cores: the parts of a detector that map named tensors to named tensors, ready for an exporter.

Preparation of images, decoding of boxes, NMS and pasting of masks stay outside; what they must know
of the model is plain data, :attr:`CoreSet.settings`. ``blendprune.runtime`` reads both.

One file per family of detectors: how to recognise it, its cores, its settings.
"""

# They register themselves.
from . import (  # noqa: F401
    blendmask,
    condinst,
    dense,
    fcos,
    proposals,
    rcnn,
    semantic,
    solov2,
)
from .core import Core, CoreSet
from .family import FAMILIES, check_settings, cores_of
from .metadata import Metadata, pack_metadata, read_metadata

__all__ = [
    "FAMILIES",
    "Core",
    "CoreSet",
    "Metadata",
    "check_settings",
    "cores_of",
    "pack_metadata",
    "read_metadata",
]
