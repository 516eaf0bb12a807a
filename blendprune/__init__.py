"""blendprune: structured pruning for detectron2 and AdelaiDet, as an overlay.

``import blendprune; blendprune.apply()`` is the whole integration; importing alone changes nothing.
"""

import importlib
from typing import TYPE_CHECKING

from . import errors

if TYPE_CHECKING:
    # What ``__getattr__`` finds, for editors and type checkers.
    from . import runtime
    from .checkpoint.conversion import convert
    from .checkpoint.loading import load
    from .config import add_prune_config
    from .deployment.bench import bench
    from .deployment.deploy import deploy
    from .deployment.export.export import export
    from .overlay import applied, apply, revert, status
    from .pipeline import (
        export_from_config,
        plan_from_config,
        prune_from_config,
        sensitivity_from_config,
    )
    from .pipeline.script import prune_in_script
    from .pruning import (
        Architecture,
        Stage,
        measure_sensitivity,
        prunable,
        register_architecture,
        register_channel_wise,
        register_flops,
    )

    # A function of a module of its name: the package around it would be ambiguous.
    from .pruning.plan import plan
    from .pruning.prune import prune
    from .structure import structure_of
    from .structure.widths import restructure

__version__ = "0.2.0"
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


# Public names, by module; those of ``.pruning`` are left out. ``import blendprune`` imports neither
# PyTorch nor detectron2: a shell that completes a command waits for it.
_MODULES = {
    "add_prune_config": ".config",
    "applied": ".overlay",
    "apply": ".overlay",
    "bench": ".deployment.bench",
    "convert": ".checkpoint.conversion",
    "deploy": ".deployment.deploy",
    "export": ".deployment.export",
    "export_from_config": ".pipeline",
    "load": ".checkpoint.loading",
    "plan_from_config": ".pipeline",
    "prune_from_config": ".pipeline",
    "prune_in_script": ".pipeline.script",
    "restructure": ".structure.widths",
    "revert": ".overlay",
    "sensitivity_from_config": ".pipeline",
    "status": ".overlay",
    "structure_of": ".structure",
}


# Modules that are public as a whole.
_PARTS = ("distributed", "modeling", "pruning", "runtime", "training")


if not TYPE_CHECKING:  # a checker would take every name as there

    def __getattr__(name):
        if name in _PARTS:
            return importlib.import_module(f".{name}", __name__)
        if name in __all__:
            return getattr(importlib.import_module(_MODULES.get(name, ".pruning"), __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
