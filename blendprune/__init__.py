"""blendprune: structured pruning for detectron2 and AdelaiDet, as an overlay.

``import blendprune; blendprune.apply()`` is the whole integration; importing alone changes nothing.
"""

from . import errors
from .checkpoint import convert, load
from .overlay import applied, apply, revert, status
from .structure import restructure, structure_of

__version__ = "0.1.0"
__all__ = [
    "add_prune_config",
    "applied",
    "apply",
    "convert",
    "errors",
    "load",
    "measure_sensitivity",
    "plan",
    "prunable",
    "prune",
    "restructure",
    "revert",
    "status",
    "structure_of",
]


def __getattr__(name):
    # These need detectron2 or Torch-Pruning, which importing blendprune must not import.
    if name in ("measure_sensitivity", "plan", "prune", "prunable"):
        from . import pruning

        return getattr(pruning, name)
    if name == "add_prune_config":
        from .config import add_prune_config

        return add_prune_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
