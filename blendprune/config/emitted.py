"""The keys that a config needs on another day, in another script."""

import importlib.util

from detectron2.config import defaults as detectron2_defaults

from .defaults import default_cfg
from .keys import add_prune_config


def drop_keys_of_other_models(cfg):
    """Drop keys that detectron2 does not have and the model of the config does not need.

    AdelaiDet and this package add the keys of their models to detectron2's defaults. A script that
    imports neither cannot merge a config with these keys. What goes are keys with their default
    value, unless a part of the model that the config names comes from AdelaiDet or this package.
    Keys that a script adds to its own config stay.

    Args:
        cfg (CfgNode): changed in place.
    """
    if not _names_of_others(cfg):
        _drop(cfg, default_cfg(), _detectron2_keys())


def _names_of_others(cfg):
    """Names in the config that a package other than detectron2 has registered with it."""
    from detectron2.modeling import (
        BACKBONE_REGISTRY,
        META_ARCH_REGISTRY,
        PROPOSAL_GENERATOR_REGISTRY,
        ROI_HEADS_REGISTRY,
    )

    model = cfg.MODEL
    named = (
        (META_ARCH_REGISTRY, model.META_ARCHITECTURE),
        (BACKBONE_REGISTRY, model.BACKBONE.NAME),
        (PROPOSAL_GENERATOR_REGISTRY, model.PROPOSAL_GENERATOR.NAME),
        (ROI_HEADS_REGISTRY, model.ROI_HEADS.NAME),
    )
    found = [registry.get(name) for registry, name in named if name in registry]
    return [
        x for x in found if getattr(x, "__module__", "").partition(".")[0] in ("adet", "blendprune")
    ]


def _detectron2_keys():
    """detectron2's defaults and ours: those in memory may have the keys of other packages."""
    spec = importlib.util.spec_from_file_location(
        "detectron2.config.own_defaults", detectron2_defaults.__file__
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    add_prune_config(module._C)
    return module._C


def _drop(cfg, defaults, own):
    for key in [key for key in cfg if key in defaults]:
        if isinstance(cfg[key], dict) and isinstance(defaults[key], dict):
            _drop(cfg[key], defaults[key], own.get(key, {}))
            if not cfg[key] and key not in own:
                del cfg[key]
        elif key not in own and cfg[key] == defaults[key]:
            del cfg[key]
