"""The config of a command: its file, its flags, and the KEY VALUE pairs at its end."""

import argparse

from ..config.imports import import_into
from ..config.messages import explained
from ..config.target import TARGETS, Target
from ..errors import ConfigError
from .numbers import number

# Flags of single commands that are keys of the PRUNER node, too.
_FLAGS = ("image_folder", "importance", "normalize", "runtime", "sensitivity")


def config_of(args):
    """Merge the config file, the flags, and the KEY VALUE tail, which wins."""
    from detectron2.config import get_cfg

    from .. import modeling
    from ..config.file import merge_plain_file

    modeling.register()
    cfg = get_cfg()
    import_into(cfg, args.imports)
    flags = {name: getattr(args, name, None) for name in (*TARGETS, *_FLAGS)}
    flags = {name: value for name, value in flags.items() if value is not None}
    for kind in TARGETS.keys() & flags.keys():
        Target(kind, flags[kind])
    ratios = [[pattern, _ratio(pattern, x)] for pattern, x in getattr(args, "layer_ratio", ())]
    with explained(f"the config file {args.config_file!r}", cfg):
        merge_plain_file(cfg, args.config_file)
    with explained("the flags", cfg):
        for name, value in flags.items():
            cfg.merge_from_list([f"PRUNER.{name.upper()}", value])
    if getattr(args, "round_to", None) is not None:
        cfg.PRUNER.ROUND_TO = args.round_to
    cfg.PRUNER.LEVELS = getattr(args, "level", None) or cfg.PRUNER.LEVELS
    # Layers of the command line are added behind those of the file.
    cfg.PRUNER.IGNORED_LAYERS = [*cfg.PRUNER.IGNORED_LAYERS, *getattr(args, "ignore", ())]
    cfg.PRUNER.PRUNING_RATIO_DICT = [*cfg.PRUNER.PRUNING_RATIO_DICT, *ratios]
    if getattr(args, "weights", None) is not None:
        cfg.MODEL.WEIGHTS = args.weights
    if "PRUNER.ROUND_TO" in args.opts[::2]:
        # yacs lets no word replace a number, but either may replace None.
        cfg.PRUNER.ROUND_TO = None
    with explained("the KEY VALUE pairs", cfg):
        cfg.merge_from_list(args.opts)
    return cfg


def _ratio(pattern, text):
    try:
        return number(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--layer-ratio {pattern!r}: {error}") from None
