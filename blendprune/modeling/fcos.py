"""FCOS (arXiv:1904.01355): anchor-free boxes from every location of the feature pyramid."""

import math

import torch
from detectron2.layers import NaiveSyncBatchNorm
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError
from .fcos_outputs import FCOSOutputs
from .fcos_targets import level_locations
from .layers import DFConv2d, ModuleListDial, NaiveGroupNorm, Scale

__all__ = ["FCOS", "FCOSHead", "ModuleListDial", "NaiveGroupNorm", "Scale"]


class FCOS(nn.Module):
    """One-stage proposal generator: its proposals are the detections.

    Args:
        cfg (CfgNode): a config with the keys of ``add_blendmask_config``.
        input_shape (dict[str, ShapeSpec]): of the backbone's feature maps.
    """

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.in_features = cfg.MODEL.FCOS.IN_FEATURES
        self.fpn_strides = cfg.MODEL.FCOS.FPN_STRIDES
        self.yield_proposal = cfg.MODEL.FCOS.YIELD_PROPOSAL
        self.yield_box_feats = cfg.MODEL.FCOS.YIELD_BOX_FEATURES

        self.fcos_head = FCOSHead(cfg, [input_shape[name] for name in self.in_features])
        self.in_channels_to_top_module = self.fcos_head.in_channels_to_top_module
        self.fcos_outputs = FCOSOutputs(cfg)

    def forward_head(self, features, top_module=None):
        """Run the head alone; see :meth:`FCOSHead.forward` for what it returns."""
        maps = [features[name] for name in self.in_features]
        return self.fcos_head(maps, top_module, self.yield_proposal)

    def forward(self, images, features, gt_instances=None, top_module=None):
        """Compute losses in training, detections in inference.

        Args:
            images (ImageList): N images; their sizes are read.
            features (dict[str, Tensor]): feature maps, each (N, C, H, W).
            gt_instances (list[Instances] or None): ``gt_boxes`` and ``gt_classes`` per image.
            top_module (callable or None): applied to the box tower's maps. Its output at a
                location is returned with that location.

        Returns:
            tuple: in training ``(extras, losses)``. The extras have ``"instances"`` (the positive
            locations), with BOX_QUALITY ctrness ``"loss_denorm"``, with YIELD_PROPOSAL
            ``"proposals"``, and with YIELD_BOX_FEATURES ``"box_feats"``. In inference
            ``(detections, extras)``, with one ``Instances`` per image.
        """
        maps = [features[name] for name in self.in_features]
        locations = self.compute_locations(maps)
        logits, distances, quality, top_feats, towers = self.fcos_head(
            maps, top_module, self.yield_proposal or self.yield_box_feats
        )
        raw = (logits, distances, quality, locations)

        box_feats = {}
        if self.yield_box_feats:
            box_feats["box_feats"] = dict(zip(self.in_features, towers, strict=True))

        if not self.training:
            detections = self.fcos_outputs.predict_proposals(*raw, images.image_sizes, top_feats)
            return detections, box_feats

        extras, losses = self.fcos_outputs.losses(*raw, gt_instances, top_feats)
        if self.yield_proposal:
            with torch.no_grad():
                extras["proposals"] = self.fcos_outputs.predict_proposals(
                    *raw, images.image_sizes, top_feats
                )
        extras.update(box_feats)
        return extras, losses

    def compute_locations(self, features):
        """List the image positions (x, y) of every cell, one (H*W, 2) tensor per level."""
        return [
            level_locations(x.shape[-2], x.shape[-1], stride, x.device)
            for x, stride in zip(features, self.fpn_strides, strict=False)
        ]


class FCOSHead(nn.Module):
    """The head that all levels share: conv towers, then class, box and quality predictions.

    Args:
        cfg (CfgNode): a config with the keys of ``add_blendmask_config``.
        input_shape (list[ShapeSpec]): of the levels, all of the same width.

    Raises:
        ConfigError: the levels differ in width, or ``MODEL.FCOS.NORM`` is unknown.
    """

    def __init__(self, cfg, input_shape):
        super().__init__()
        fcos = cfg.MODEL.FCOS
        widths = {shape.channels for shape in input_shape}
        if len(widths) != 1:
            raise ConfigError(
                f"The levels in MODEL.FCOS.IN_FEATURES have {sorted(widths)} channels, but share "
                "one head; list levels of the same width."
            )
        (width,) = widths
        self.num_classes = fcos.NUM_CLASSES
        self.fpn_strides = fcos.FPN_STRIDES
        self.num_levels = len(input_shape)
        self.in_channels_to_top_module = width

        deformable = fcos.USE_DEFORMABLE
        self.cls_tower = self._tower(width, fcos.NUM_CLS_CONVS, fcos.NORM, deformable)
        self.bbox_tower = self._tower(width, fcos.NUM_BOX_CONVS, fcos.NORM, deformable)
        self.share_tower = self._tower(width, fcos.NUM_SHARE_CONVS, fcos.NORM, False)

        self.cls_logits = nn.Conv2d(width, self.num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(width, 4, 3, padding=1)
        self.ctrness = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = None
        if fcos.USE_SCALE:
            self.scales = nn.ModuleList(Scale() for _ in range(self.num_levels))

        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        # Focal loss is unstable if every location starts at probability 0.5.
        prior = fcos.PRIOR_PROB
        nn.init.constant_(self.cls_logits.bias, math.log(prior / (1 - prior)))

    def _tower(self, width, depth, norm, deformable):
        layers = []
        for i in range(depth):
            last = i == depth - 1
            layers.append(
                DFConv2d(width, width)
                if deformable and last
                else nn.Conv2d(width, width, 3, padding=1)
            )
            layers.extend(self._norm(norm, width))
            layers.append(nn.ReLU())
        return nn.Sequential(*layers)

    def _norm(self, name, width):
        if name in ("none", "", None):
            return []
        if name == "GN":
            return [nn.GroupNorm(32, width)]
        if name == "NaiveGN":
            return [NaiveGroupNorm(32, width)]
        if name in ("BN", "SyncBN"):
            norm = nn.BatchNorm2d if name == "BN" else NaiveSyncBatchNorm
            return [ModuleListDial(norm(width) for _ in range(self.num_levels))]
        raise ConfigError(
            f"MODEL.FCOS.NORM is {name!r}; set it to GN, NaiveGN, BN, SyncBN or none."
        )

    def forward(self, x, top_module=None, yield_bbox_towers=False):
        """Predict on every level.

        Args:
            x (list[Tensor]): one (N, C, H, W) per level.
            top_module (callable or None): applied to each level's box tower.
            yield_bbox_towers (bool): also return the box towers.

        Returns:
            tuple[list[Tensor]]: class logits (N, classes, H, W); distances to the left, top, right
            and bottom edge in strides (N, 4, H, W); quality logits (N, 1, H, W); the top module's
            maps; the box towers. The last two are empty if not asked for.
        """
        logits, distances, quality, top_feats, towers = [], [], [], [], []
        for level, feature in enumerate(x):
            shared = self.share_tower(feature)
            cls_tower = self.cls_tower(shared)
            bbox_tower = self.bbox_tower(shared)

            logits.append(self.cls_logits(cls_tower))
            quality.append(self.ctrness(bbox_tower))
            reg = self.bbox_pred(bbox_tower)
            if self.scales is not None:
                reg = self.scales[level](reg)
            distances.append(F.relu(reg))

            if top_module is not None:
                top_feats.append(top_module(bbox_tower))
            if yield_bbox_towers:
                towers.append(bbox_tower)
        return logits, distances, quality, top_feats, towers
