"""The dense models."""

import os

from detectron2.config import CfgNode, get_cfg

from blendprune import modeling
from blendprune.demo.story import CONFIG

MODELS = ("blendmask", "blendmask_sparse", "mask_rcnn", "retinanet")
#: Depths of the ResNet → config keys. R-50 comes with upstream's width of the pyramid.
DEPTHS = {
    18: {},
    50: {
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
        "MODEL.FPN.OUT_CHANNELS": 256,
    },
}


def dense_config(model, seed, data, opts=()):
    """Build the config of a dense model.

    Args:
        model (str): one of :data:`MODELS`.
        seed (int): seed of the weights, the order of images, and calibration.
        data (benchmarks.accuracy.data.Data): the data set.
        opts (Sequence): ``KEY VALUE`` pairs that override the config.

    Returns:
        CfgNode: the config, with blendprune's keys.
    """
    modeling.register()
    cfg = get_cfg()
    cfg.merge_from_file(CONFIG)
    if model != "blendmask":
        cfg.merge_from_file(os.path.join(os.path.dirname(__file__), f"{model}.yaml"))
    for keys in data.sizes_of(cfg.MODEL.META_ARCHITECTURE):
        cfg.merge_from_other_cfg(CfgNode(keys))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (data.train,), (data.test,)
    nodes = (cfg.MODEL.FCOS, cfg.MODEL.BASIS_MODULE, cfg.MODEL.ROI_HEADS, cfg.MODEL.RETINANET)
    for node in nodes:
        node.NUM_CLASSES = data.num_classes
    cfg.SEED = seed
    cfg.merge_from_list(list(opts))
    return cfg
