"""blendprune: structured pruning for detectron2 and AdelaiDet, as an overlay.

``import blendprune; blendprune.apply()`` is the whole integration; importing alone changes nothing.
"""

import importlib

from . import errors
from .checkpoint.conversion import convert
from .checkpoint.loading import load
from .overlay import applied, apply, revert, status
from .structure import structure_of
from .structure.widths import restructure

__version__ = "0.1.0"
__all__ = [
    "Architecture",
    "Stage",
    "add_prune_config",
    "applied",
    "apply",
    "bench",
    "convert",
    "deploy",
    "distributed",
    "errors",
    "export",
    "export_from_config",
    "load",
    "measure_sensitivity",
    "plan",
    "plan_from_config",
    "prunable",
    "prune",
    "prune_from_config",
    "prune_in_script",
    "register_architecture",
    "register_channel_wise",
    "register_flops",
    "restructure",
    "revert",
    "runtime",
    "sensitivity_from_config",
    "status",
    "structure_of",
]


# Names that need detectron2 or Torch-Pruning, by module; ``import blendprune`` imports neither.
_MODULES = {
    "add_prune_config": ".config",
    "bench": ".deployment.bench",
    "deploy": ".deployment.deploy",
    "export": ".deployment.export",
    "export_from_config": ".pipeline",
    "plan_from_config": ".pipeline",
    "prune_from_config": ".pipeline",
    "prune_in_script": ".pipeline.script",
    "sensitivity_from_config": ".pipeline",
}


def __getattr__(name):
    if name in ("distributed", "runtime"):
        return importlib.import_module(f".{name}", __name__)
    if name in __all__:
        return getattr(importlib.import_module(_MODULES.get(name, ".pruning"), __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
