"""Models and cores that are exported in seconds."""

import torch
from torch import nn

from blendprune.deployment.cores import Core
from tests.helpers.small_blendmask import small_cfg
from tests.helpers.small_zoo import config_of


def two_level_blendmask(*opts):
    """Config of a BlendMask with two levels, on half a ResNet-18."""
    cfg = small_cfg("MODEL.FPN.OUT_CHANNELS", 64, "MODEL.FCOS.TOP_LEVELS", 0)
    levels = ["res2", "res3"]
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = levels
    cfg.MODEL.FCOS.IN_FEATURES = cfg.MODEL.BASIS_MODULE.IN_FEATURES = ["p2", "p3"]
    cfg.MODEL.FCOS.FPN_STRIDES, cfg.MODEL.FCOS.SIZES_OF_INTEREST = [4, 8], [32]
    cfg.MODEL.BASIS_MODULE.COMMON_STRIDE = 4
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.merge_from_list(list(opts))
    return cfg


def one_level_retinanet():
    """Config of a RetinaNet with one level, on half a ResNet-18."""
    return config_of(
        "retinanet",
        *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.OUT_FEATURES", ["res3"]),
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        *("MODEL.RETINANET.IN_FEATURES", ["res3"], "MODEL.ANCHOR_GENERATOR.SIZES", [[32]]),
        *("INPUT.MIN_SIZE_TEST", 64),
    )


class Images(nn.Module):
    """From images to one map; ``change`` is what an operator does to the map."""

    def __init__(self, change=lambda x: x):
        super().__init__()
        self.conv, self.change = nn.Conv2d(3, 4, 3, stride=2, padding=1), change

    def forward(self, images):
        return (self.change(self.conv(images)),)


def core_of_images(change=lambda x: x):
    """A core of one conv."""
    return Core(
        Images(change).eval(),
        {"images": ("batch", 3, "height", "width")},
        {"map": ("batch", None, "height_map", "width_map")},
        {"height": 2, "width": 2},
        {"batch": 2, "height": 8, "width": 8},
    )


class Regions(nn.Module):
    """From crops to scores."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4 * 7 * 7, 5)

    def forward(self, crops):
        return (self.fc(torch.flatten(self.conv(crops), 1)),)


def core_of_regions():
    """A core that runs on any number of crops."""
    return Core(
        Regions().eval(),
        {"crops": ("regions", 4, 7, 7)},
        {"scores": ("regions", None)},
        sizes={"regions": 3},
    )
