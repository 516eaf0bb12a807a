"""A RetinaNet on one block of 8 channels: built in milliseconds."""

from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

from tests.helpers.one_stage import one_stage_cfg


@BACKBONE_REGISTRY.register()
def build_one_block_backbone(cfg, input_shape):
    """A ResNet whose only stage, ``"res2"``, has one basic block."""
    block = {"in_channels": 8, "out_channels": 8, "norm": "BN"}
    stage = ResNet.make_stage(BasicBlock, 1, **block)
    return ResNet(BasicStem(input_shape.channels, 8, "BN"), [stage], out_features=["res2"])


def one_block_cfg():
    """Its config, for images of 64 pixels on the CPU."""
    cfg = one_stage_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_one_block_backbone"
    return cfg
