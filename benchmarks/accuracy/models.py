"""The dense models."""

import os

from detectron2.config import get_cfg

from blendprune import modeling
from blendprune.demo.story import CONFIG

MODELS = ("blendmask", "blendmask_sparse", "mask_rcnn", "retinanet")


def dense_config(model, seed, opts=()):
    """Build the config of a dense model.

    Args:
        model (str): one of :data:`MODELS`.
        seed (int): seed of the weights, the order of images, and calibration.
        opts (Sequence): ``KEY VALUE`` pairs that override the config.

    Returns:
        CfgNode: the config, with blendprune's keys.
    """
    modeling.register()
    cfg = get_cfg()
    cfg.merge_from_file(CONFIG)
    if model != "blendmask":
        cfg.merge_from_file(os.path.join(os.path.dirname(__file__), f"{model}.yaml"))
    cfg.SEED = seed
    cfg.merge_from_list(list(opts))
    return cfg
