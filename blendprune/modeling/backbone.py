"""ResNet and feature pyramid with the extra levels of FCOS (arXiv:1904.01355, section 4)."""

import fvcore.nn.weight_init as weight_init
from detectron2.modeling.backbone import FPN, build_resnet_backbone
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError


class LastLevelP6(nn.Module):
    """One level above p5: a conv of stride 2.

    Args:
        in_channels (int): channels of the level it reads.
        out_channels (int): channels of the new level.
        in_features (str): name of the level it reads.
    """

    num_levels = 1

    def __init__(self, in_channels, out_channels, in_features="p5"):
        super().__init__()
        self.in_feature = in_features
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        weight_init.c2_xavier_fill(self.p6)

    def forward(self, x):
        return [self.p6(x)]


class LastLevelP6P7(nn.Module):
    """Two levels above p5: p6, and p7 from ReLU(p6). Same arguments as ``LastLevelP6``."""

    num_levels = 2

    def __init__(self, in_channels, out_channels, in_features="p5"):
        super().__init__()
        self.in_feature = in_features
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        for conv in (self.p6, self.p7):
            weight_init.c2_xavier_fill(conv)

    def forward(self, x):
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6))]


_TOP_BLOCKS = {0: None, 1: LastLevelP6, 2: LastLevelP6P7}


def build_fcos_resnet_fpn_backbone(cfg, input_shape):
    """Build detectron2's ResNet and FPN with ``MODEL.FCOS.TOP_LEVELS`` levels above p5.

    Args:
        cfg (CfgNode): a config with the keys of ``add_blendmask_config``.
        input_shape (ShapeSpec): of the image.

    Returns:
        FPN: the backbone.

    Raises:
        ConfigError: a key needs a backbone that only AdelaiDet has, or ``TOP_LEVELS`` is not 0,
            1 or 2.
    """
    for key, asked in (
        ("MODEL.BACKBONE.ANTI_ALIAS", cfg.MODEL.BACKBONE.ANTI_ALIAS),
        ("MODEL.MOBILENET", cfg.MODEL.MOBILENET),
        ("MODEL.RESNETS.DEFORM_INTERVAL above 1", cfg.MODEL.RESNETS.DEFORM_INTERVAL > 1),
    ):
        if asked:
            raise ConfigError(
                f"{key} needs a backbone that only AdelaiDet has: install AdelaiDet, or leave the "
                "key at its default."
            )
    top_levels = cfg.MODEL.FCOS.TOP_LEVELS
    if top_levels not in _TOP_BLOCKS:
        raise ConfigError(f"MODEL.FCOS.TOP_LEVELS is {top_levels}; set it to 0, 1 or 2.")

    bottom_up = build_resnet_backbone(cfg, input_shape)
    width = cfg.MODEL.FPN.OUT_CHANNELS
    top_block = _TOP_BLOCKS[top_levels]
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=width,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block and top_block(width, width, "p5"),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
