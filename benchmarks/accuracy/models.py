"""The models: one dense config each, and one that is uniformly slim."""

import os
from bisect import bisect_left

from detectron2.config import get_cfg
from detectron2.modeling import build_model

from blendprune import modeling
from blendprune.demo import CONFIG
from blendprune.pruning import config_inputs, count_flops
from blendprune.structure import remember

_FOLDER = os.path.dirname(__file__)
# What makes a model wide, of which the widths of all its layers follow.
_WIDTHS = {
    "blendmask": (
        "RESNETS.STEM_OUT_CHANNELS",
        "RESNETS.RES2_OUT_CHANNELS",
        "FPN.OUT_CHANNELS",
        "BASIS_MODULE.CONVS_DIM",
    ),
    "mask_rcnn": (
        "RESNETS.STEM_OUT_CHANNELS",
        "RESNETS.RES2_OUT_CHANNELS",
        "FPN.OUT_CHANNELS",
        "ROI_BOX_HEAD.FC_DIM",
        "ROI_MASK_HEAD.CONV_DIM",
    ),
    "retinanet": (
        "RESNETS.STEM_OUT_CHANNELS",
        "RESNETS.RES2_OUT_CHANNELS",
        "FPN.OUT_CHANNELS",
    ),
}
MODELS = tuple(_WIDTHS)


def dense_config(model, seed, opts=()):
    """The config of a dense model.

    Args:
        model (str): of :data:`MODELS`.
        seed (int): of weights, order of the images, and calibration.
        opts (Sequence): ``KEY VALUE`` pairs.

    Returns:
        CfgNode: with blendprune's keys.
    """
    modeling.register()
    cfg = get_cfg()
    cfg.merge_from_file(CONFIG)
    if model != "blendmask":
        cfg.merge_from_file(os.path.join(_FOLDER, f"{model}.yaml"))
    cfg.SEED = seed
    cfg.merge_from_list(list(opts))
    return cfg


def slim_config(model, cfg, kept):
    """The config of the same architecture with all its widths shrunk by one factor.

    Args:
        model (str): of :data:`MODELS`.
        cfg (CfgNode): from :func:`dense_config`.
        kept (float): FLOPs to keep, as a fraction of the dense model's; met from above.

    Returns:
        CfgNode: a new one.
    """

    def slim(step):
        narrow = cfg.clone()
        for key in _WIDTHS[model]:
            part, name = key.split(".")
            narrow.MODEL[part][name] = max(2, 2 * round(cfg.MODEL[part][name] * step / 256))
        return narrow

    steps = range(1, 129)
    wanted = kept * _flops(cfg)
    return slim(steps[bisect_left(steps, wanted, key=lambda step: _flops(slim(step)))])


def _flops(cfg):
    model = build_model(cfg)
    remember(model, cfg)
    return sum(count_flops(model, config_inputs(model)).values())
