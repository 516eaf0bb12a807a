"""``detectron2.modeling.build_model``: every model remembers its config and obeys MODEL.FINETUNE.

Extended: the function, in its module and wherever it was imported by name. A checkpoint's
``"struct"`` then carries the config for any meta architecture, and MODEL.FINETUNE re-shapes any of
them. A model that already did so while it was built (BlendMask) is left alone.
"""

from .. import structure
from ..checkpoint import read_struct
from ..config import prune_mode
from ._patch import Patch


def build_model(wrapped, instance, args, kwargs):
    """Build a model, then give it the widths of MODEL.WEIGHTS under MODEL.FINETUNE."""
    cfg = args[0] if args else kwargs["cfg"]
    _, finetune = prune_mode(cfg)
    model = wrapped(*args, **kwargs)
    if not hasattr(model, "blendprune_config"):
        structure.remember(model, cfg)
        if finetune:
            structure.restructure(model, read_struct(cfg.MODEL.WEIGHTS))
    return model


def _install(module, edits):
    edits.wrap_function(module, "build_model", build_model)


PATCHES = [
    Patch(
        name="remember-config",
        module="detectron2.modeling.meta_arch.build",
        watches=("build_model",),
        digests=("92332efc6ea8c4c6",),
        install=_install,
    )
]
