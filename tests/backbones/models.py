"""Backbones of torchvision and timm in a RetinaNet of detectron2."""

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_anchor_generator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead
from torch import nn
from torch.nn import functional as F

_WIDTH = 64


class Stages(Backbone):
    """Modules one after the other; the last map of each of the three coarsest strides goes out.

    Args:
        blocks (Sequence[nn.Module]): a backbone, in order.
        channels_last (bool): maps are (N, H, W, C), as in Swin.
    """

    def __init__(self, blocks, channels_last=False):
        super().__init__()
        self.channels_last = channels_last
        self.blocks = nn.ModuleList(blocks)
        maps = {}
        with torch.no_grad():
            x = torch.zeros(1, 3, 224, 224)
            for number, block in enumerate(self.eval().blocks):
                x = block(x)
                height, width = (1, 3) if channels_last else (2, 1)
                maps[round(224 / x.shape[height])] = (f"stage{number}", x.shape[width])
        strides = sorted(maps)[-3:]
        self._out_features = [maps[stride][0] for stride in strides]
        self._out_feature_channels = dict(maps[stride] for stride in strides)
        self._out_feature_strides = {maps[stride][0]: stride for stride in strides}
        self.blocks = self.blocks[: 1 + int(self._out_features[-1][len("stage") :])]

    def forward(self, x):
        found = {}
        for number, block in enumerate(self.blocks):
            x = block(x)
            if f"stage{number}" in self._out_features:
                found[f"stage{number}"] = x.permute(0, 3, 1, 2) if self.channels_last else x
        return found


class TimmFeatures(Backbone):
    """A timm model with ``features_only``; its coarsest maps go out.

    Args:
        name (str): as of ``timm.create_model``.
        levels (int): how many maps.
        options: as of ``timm.create_model``.
    """

    def __init__(self, name, levels=3, **options):
        import timm

        super().__init__()
        whole = timm.create_model(name, pretrained=False, features_only=True, **options)
        indices = list(range(len(whole.feature_info.channels())))[-levels:]
        self.net = timm.create_model(
            name, pretrained=False, features_only=True, out_indices=indices, **options
        )
        self._out_features = [f"stage{number}" for number in range(levels)]
        channels, strides = self.net.feature_info.channels(), self.net.feature_info.reduction()
        self._out_feature_channels = dict(zip(self._out_features, channels))
        self._out_feature_strides = dict(zip(self._out_features, strides))
        size = options.get("img_size", 64)
        with torch.no_grad():
            maps = self.net.eval()(torch.zeros(1, 3, size, size))
        self.channels_last = [x.shape[1] != width for x, width in zip(maps, channels)]

    def forward(self, x):
        maps = zip(self._out_features, self.net(x), self.channels_last)
        return {name: x.permute(0, 3, 1, 2) if last else x for name, x, last in maps}


class Pyramid(Backbone):
    """An FPN for maps of any size.

    Args:
        bottom_up (Backbone): gives maps, the finest first.
        size_divisibility (int): of images.
    """

    def __init__(self, bottom_up, size_divisibility=32):
        super().__init__()
        self.bottom_up, self._divisibility = bottom_up, size_divisibility
        shapes = bottom_up.output_shape()
        self.lateral = nn.ModuleList([nn.Conv2d(s.channels, _WIDTH, 1) for s in shapes.values()])
        self.output = nn.ModuleList([nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1) for _ in shapes])
        self._out_features = [f"p{level}" for level in range(3, 3 + len(shapes))]
        self._out_feature_channels = dict.fromkeys(self._out_features, _WIDTH)
        strides = [shape.stride for shape in shapes.values()]
        self._out_feature_strides = dict(zip(self._out_features, strides))

    @property
    def size_divisibility(self):
        return self._divisibility

    def forward(self, x):
        maps = [conv(y) for conv, y in zip(self.lateral, self.bottom_up(x).values())]
        for fine in reversed(range(len(maps) - 1)):
            maps[fine] = maps[fine] + F.interpolate(maps[fine + 1], maps[fine].shape[-2:])
        return {name: conv(y) for name, conv, y in zip(self._out_features, self.output, maps)}


def retinanet(backbone):
    """A small RetinaNet on a backbone.

    Args:
        backbone (Backbone): from :func:`build_backbone`.
    """
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[4 * s.stride] for s in backbone.output_shape().values()]
    shapes = [ShapeSpec(s.channels, stride=s.stride) for s in backbone.output_shape().values()]
    head = RetinaNetHead(
        input_shape=shapes, num_classes=3, num_anchors=3, conv_dims=[_WIDTH], prior_prob=0.01
    )
    return RetinaNet(
        backbone=backbone,
        head=head,
        head_in_features=list(backbone.output_shape()),
        anchor_generator=build_anchor_generator(cfg, shapes),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=3,
        test_score_thresh=0.0,
        pixel_mean=(123.0, 116.0, 103.0),
        pixel_std=(58.0, 57.0, 57.0),
    )
