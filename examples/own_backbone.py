"""A backbone of your own, for RetinaNet or any other model with a feature pyramid.

Configs name it: ``MODEL.BACKBONE.NAME build_own_fpn_backbone``. blendprune needs nothing else.
"""

from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import nn
from torch.nn import functional as F

WIDTHS = {"s2": 32, "s3": 48, "s4": 96, "s5": 160}
STRIDES = {"s2": 4, "s3": 8, "s4": 16, "s5": 32}


def conv_norm(inputs, outputs, kernel, stride=1, groups=1):
    norm = get_norm("BN", outputs)
    return Conv2d(
        inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False, norm=norm
    )


class Block(nn.Module):
    """A depthwise conv between two 1 × 1 convs, with a shortcut."""

    def __init__(self, channels, expansion=4):
        super().__init__()
        hidden = channels * expansion
        self.expand = conv_norm(channels, hidden, 1)
        self.depthwise = conv_norm(hidden, hidden, 3, groups=hidden)
        self.project = conv_norm(hidden, channels, 1)

    def forward(self, x):
        return x + self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))


class OwnNet(Backbone):
    def __init__(self, channels, blocks=2):
        super().__init__()
        self._out_features = list(WIDTHS)
        self._out_feature_channels, self._out_feature_strides = dict(WIDTHS), dict(STRIDES)
        self.stem = conv_norm(channels, 32, 3, stride=2)
        self.stages, inputs = nn.ModuleDict(), 32
        for name, width in WIDTHS.items():
            down = conv_norm(inputs, width, 3, stride=2)
            self.stages[name] = nn.Sequential(down, *(Block(width) for _ in range(blocks)))
            inputs = width

    def forward(self, x):
        x, found = F.relu6(self.stem(x)), {}
        for name, stage in self.stages.items():
            x = found[name] = stage(x)
        return found


@BACKBONE_REGISTRY.register()
def build_own_fpn_backbone(cfg, input_shape):
    net, width = OwnNet(input_shape.channels), cfg.MODEL.FPN.OUT_CHANNELS
    top = LastLevelP6P7(width, width, "p5")
    return FPN(net, cfg.MODEL.FPN.IN_FEATURES, width, norm=cfg.MODEL.FPN.NORM, top_block=top)
