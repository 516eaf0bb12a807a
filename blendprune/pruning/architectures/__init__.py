"""Architectures: one file per family of detectors, and a registry that finds a model's.

A file says how to recognise a model of the family, in which stages its inference runs and on how
many regions or instances, which layers are prediction layers beside the obvious ones, and, where
needed, which labels a training forward wants. No other part of the package asks for an architecture
by name or by attribute.
"""

# They register themselves. Of those that match, the last one counts: pointrend extends rcnn.
from . import (  # noqa: F401
    batext,
    blendmask,
    condinst,
    fcpose,
    meinst,
    pointrend,
    rcnn,
    solov2,
)
from .blendmask import blendmask_outputs
from .default import Architecture, Stage
from .own_forward import (
    run_own_inference,
    run_own_training,
    run_own_training_on_made_up_labels,
)
from .registry import ARCHITECTURES, architecture_of, register_architecture

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Stage",
    "architecture_of",
    "blendmask_outputs",
    "register_architecture",
    "run_own_inference",
    "run_own_training",
    "run_own_training_on_made_up_labels",
]
