"""Losses and detections from the raw outputs of the FCOS head."""

import torch
from detectron2.layers import cat
from detectron2.structures import Instances
from fvcore.nn import sigmoid_focal_loss_jit
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError
from .fcos_detections import fcos_detections
from .fcos_losses import IOULoss, centerness, mean_over_workers, overlaps
from .fcos_targets import FCOSTargets


class FCOSOutputs(nn.Module):
    """Compute losses in training and detections in inference. Has no weights.

    Args:
        cfg (CfgNode): a config with the keys of ``add_blendmask_config``.

    Raises:
        ConfigError: ``LOSS_NORMALIZER_CLS``, ``BOX_QUALITY`` or ``LOC_LOSS_TYPE`` is unknown.
    """

    def __init__(self, cfg):
        super().__init__()
        fcos = cfg.MODEL.FCOS
        _check("LOSS_NORMALIZER_CLS", fcos.LOSS_NORMALIZER_CLS, ("fg", "moving_fg", "all"))
        _check("BOX_QUALITY", fcos.BOX_QUALITY, ("ctrness", "iou"))

        self.num_classes = fcos.NUM_CLASSES
        self.strides = fcos.FPN_STRIDES
        self.box_quality = fcos.BOX_QUALITY
        self.targets = FCOSTargets(
            fcos.NUM_CLASSES,
            fcos.FPN_STRIDES,
            fcos.SIZES_OF_INTEREST,
            fcos.CENTER_SAMPLE,
            fcos.POS_RADIUS,
        )

        self.focal_loss_alpha = fcos.LOSS_ALPHA
        self.focal_loss_gamma = fcos.LOSS_GAMMA
        self.loc_loss_func = IOULoss(fcos.LOC_LOSS_TYPE)
        self.loss_weight_cls = fcos.LOSS_WEIGHT_CLS
        self.loss_normalizer_cls = fcos.LOSS_NORMALIZER_CLS
        # Not in the state dict, as upstream: it restarts when training resumes.
        self.moving_num_fg = 100
        self.moving_num_fg_momentum = 0.9

        self.pre_nms_thresh_train = fcos.INFERENCE_TH_TRAIN
        self.pre_nms_topk_train = fcos.PRE_NMS_TOPK_TRAIN
        self.post_nms_topk_train = fcos.POST_NMS_TOPK_TRAIN
        self.pre_nms_thresh_test = fcos.INFERENCE_TH_TEST
        self.pre_nms_topk_test = fcos.PRE_NMS_TOPK_TEST
        self.post_nms_topk_test = fcos.POST_NMS_TOPK_TEST
        self.nms_thresh = fcos.NMS_TH
        self.thresh_with_ctr = fcos.THRESH_WITH_CTR

    def losses(self, logits_pred, reg_pred, ctrness_pred, locations, gt_instances, top_feats=()):
        """Compute the losses of a batch.

        Args:
            logits_pred (list[Tensor]): class logits (N, classes, H, W) per level.
            reg_pred (list[Tensor]): distances to the edges, in strides, (N, 4, H, W) per level.
            ctrness_pred (list[Tensor]): quality logits (N, 1, H, W) per level.
            locations (list[Tensor]): (H*W, 2) per level, in pixels.
            gt_instances (list[Instances]): ground truth per image.
            top_feats (list[Tensor]): (N, D, H, W) per level, or empty.

        Returns:
            tuple[dict, dict]: data of the positive locations for a mask branch, and the losses.
        """
        everywhere = Instances((0, 0), **self.targets(locations, gt_instances))
        everywhere.logits_pred = _flatten(logits_pred)
        everywhere.reg_pred = _flatten(reg_pred)
        everywhere.ctrness_pred = _flatten(ctrness_pred).squeeze(1)
        if len(top_feats) > 0:
            everywhere.top_feats = _flatten(top_feats)
        return self.fcos_losses(everywhere)

    def fcos_losses(self, instances):
        """Compute the losses from predictions and targets with one row per location."""
        pos_inds = torch.nonzero(instances.labels != self.num_classes).squeeze(1)
        num_pos = max(mean_over_workers(pos_inds.new_tensor(len(pos_inds))), 1.0)
        losses = {"loss_fcos_cls": self._class_loss(instances, pos_inds, num_pos)}

        positives = instances[pos_inds]
        positives.pos_inds = pos_inds
        extras = {"instances": positives}
        ious, gious = overlaps(positives.reg_pred, positives.reg_targets)
        if self.box_quality == "ctrness":
            quality = centerness(positives.reg_targets)
            positives.gt_ctrs = quality
            denominator = max(mean_over_workers(quality.sum()), 1e-6)
            extras["loss_denorm"] = denominator
            losses["loss_fcos_loc"] = self.loc_loss_func(ious, gious, quality) / denominator
            name = "loss_fcos_ctr"
        else:
            quality = ious.detach()
            losses["loss_fcos_loc"] = self.loc_loss_func(ious, gious) / num_pos
            name = "loss_fcos_iou"
        losses[name] = (
            F.binary_cross_entropy_with_logits(positives.ctrness_pred, quality, reduction="sum")
            / num_pos
        )
        return extras, losses

    def _class_loss(self, instances, pos_inds, num_pos):
        target = torch.zeros_like(instances.logits_pred)
        target[pos_inds, instances.labels[pos_inds]] = 1
        loss = sigmoid_focal_loss_jit(
            instances.logits_pred,
            target,
            alpha=self.focal_loss_alpha,
            gamma=self.focal_loss_gamma,
            reduction="sum",
        )
        if self.loss_normalizer_cls == "fg":
            normalizer = num_pos
        elif self.loss_normalizer_cls == "moving_fg":
            keep = self.moving_num_fg_momentum
            self.moving_num_fg = keep * self.moving_num_fg + (1 - keep) * num_pos
            normalizer = self.moving_num_fg
        else:
            count = instances.labels.new_tensor(len(instances.labels))
            normalizer = max(mean_over_workers(count), 1.0)
        return loss / normalizer * self.loss_weight_cls

    def predict_proposals(
        self, logits_pred, reg_pred, ctrness_pred, locations, image_sizes, top_feats=()
    ):
        """Turn the head's outputs into detections.

        Args:
            image_sizes (list[tuple[int, int]]): height and width per image.
            logits_pred, reg_pred, ctrness_pred, locations, top_feats: as in :meth:`losses`.

        Returns:
            list[Instances]: see :func:`fcos_detections`.
        """
        train = self.training
        return fcos_detections(
            logits_pred,
            reg_pred,
            ctrness_pred,
            locations,
            image_sizes,
            top_feats,
            strides=self.strides,
            score_threshold=self.pre_nms_thresh_train if train else self.pre_nms_thresh_test,
            max_candidates=self.pre_nms_topk_train if train else self.pre_nms_topk_test,
            nms_threshold=self.nms_thresh,
            max_detections=self.post_nms_topk_train if train else self.post_nms_topk_test,
            threshold_with_ctrness=self.thresh_with_ctr,
        )


def _flatten(levels):
    # (N, D, H, W) per level to one row per cell, ordered by level, image, cell.
    return cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in levels])


def _check(key, value, allowed):
    if value not in allowed:
        raise ConfigError(f"MODEL.FCOS.{key} is {value!r}; set it to one of {', '.join(allowed)}.")
