"""blendprune: structured pruning for detectron2 and AdelaiDet, as an overlay.

``import blendprune; blendprune.apply()`` is the whole integration; importing alone changes nothing.
"""

from . import errors
from .checkpoint import convert
from .loading import load
from .overlay import applied, apply, revert, status
from .structure import structure_of
from .widths import restructure

__version__ = "0.1.0"
__all__ = [
    "Architecture",
    "Stage",
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
    "register_architecture",
    "register_channel_wise",
    "register_flops",
    "restructure",
    "revert",
    "status",
    "structure_of",
]


def __getattr__(name):
    # The names left need detectron2 or Torch-Pruning; ``import blendprune`` imports neither.
    if name == "add_prune_config":
        from .config import add_prune_config

        return add_prune_config
    if name in __all__:
        from . import pruning

        return getattr(pruning, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
