"""Blender of BlendMask (arXiv:2001.00309, section 3.3): masks from bases and attentions."""

from detectron2.layers import cat
from detectron2.modeling.poolers import ROIPooler
from torch.nn import functional as F

from ..errors import ConfigError


def build_blender(cfg):
    """Build the blender of a config."""
    return Blender(cfg)


class Blender:
    """Crop each instance's region from the bases and blend it with the instance's attention.

    It has no weights, so it is not an ``nn.Module``.

    Args:
        cfg (CfgNode): a config with the keys of ``add_blendmask_config``.
    """

    def __init__(self, cfg):
        blendmask = cfg.MODEL.BLENDMASK
        self.pooler_resolution = blendmask.BOTTOM_RESOLUTION
        self.attn_size = blendmask.ATTN_SIZE
        self.attn_len = cfg.MODEL.BASIS_MODULE.NUM_BASES * self.attn_size**2
        self.top_interp = blendmask.TOP_INTERP
        self.pooler = ROIPooler(
            output_size=self.pooler_resolution,
            scales=blendmask.POOLER_SCALES,
            sampling_ratio=blendmask.POOLER_SAMPLING_RATIO,
            pooler_type=blendmask.POOLER_TYPE,
            canonical_level=2,
        )

    def __call__(self, bases, proposals, gt_instances):
        """Compute the mask loss, or the masks if there is no ground truth.

        Args:
            bases (list[Tensor]): one tensor (N, NUM_BASES, H, W).
            proposals (dict or list[Instances]): FCOS's extras in training, its detections in
                inference. Detections get ``pred_masks`` (n, 1, R, R), probabilities.
            gt_instances (list[Instances] or None): ground truth per image.

        Returns:
            tuple: ``(None, losses)`` in training, ``(detections, {})`` in inference.
        """
        if gt_instances is None:
            return self._masks(bases, proposals), {}
        return None, {"loss_mask": self._loss(bases, proposals, gt_instances)}

    def _loss(self, bases, proposals, gt_instances):
        positives = proposals["instances"]
        if len(positives) == 0:
            # Zero with a gradient: DDP needs one for every weight in every process.
            return positives.top_feats.sum() * 0 + bases[0].sum() * 0
        if "loss_denorm" not in proposals:
            raise ConfigError(
                "BlendMask weights its mask loss by centerness: set MODEL.FCOS.BOX_QUALITY to "
                "'ctrness' for training."
            )
        gt_inds = positives.gt_inds
        regions = self.pooler(bases, [image.gt_boxes for image in gt_instances])[gt_inds]
        logits = self.merge_bases(regions, positives.top_feats)

        # An image without instances may have no gt_masks at all.
        targets = [
            image.gt_masks.crop_and_resize(image.gt_boxes.tensor, self.pooler_resolution)
            for image in gt_instances
            if len(image) > 0
        ]
        targets = cat([x.to(logits.device) for x in targets])[gt_inds].flatten(1)
        per_location = F.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none"
        ).mean(dim=1)
        return (per_location * positives.gt_ctrs).sum() / proposals["loss_denorm"]

    def _masks(self, bases, proposals):
        return add_masks(bases, proposals, self.pooler, self.attn_size, self.top_interp)

    def merge_bases(self, rois, coeffs, location_to_inds=None):
        """Blend regions by attentions (arXiv:2001.00309, equations 3 to 5).

        Args:
            rois (Tensor): regions of the bases, (n, NUM_BASES, R, R).
            coeffs (Tensor): attentions, (n, NUM_BASES * ATTN_SIZE * ATTN_SIZE).
            location_to_inds (Tensor or None): index of the region of each attention. None: the
                same index.

        Returns:
            Tensor: mask logits, (n, R * R).
        """
        if location_to_inds is not None:
            rois = rois[location_to_inds]
        return blend(rois, coeffs, self.attn_size, self.top_interp)


def add_masks(bases, detections, pooler, attn_size, interpolation):
    """Add masks to detections.

    Args:
        bases (list[Tensor]): one tensor (N, NUM_BASES, H, W).
        detections (list[Instances]): N, with ``pred_boxes`` and ``top_feat``, the attentions. They
            get ``pred_masks`` (n, 1, R, R), probabilities.
        pooler (ROIPooler): crops regions of R x R.
        attn_size (int): side of an attention.
        interpolation (str): how attentions are enlarged; a mode of ``F.interpolate``.

    Returns:
        list[Instances]: ``detections``.
    """
    height, width = pooler.output_size
    counts = [len(image) for image in detections]
    if sum(counts) == 0:
        for image in detections:
            image.pred_masks = image.scores.new_zeros(0, 1, height, width)
        return detections
    regions = pooler(bases, [image.pred_boxes for image in detections])
    attention = cat([image.top_feat for image in detections])
    masks = blend(regions, attention, attn_size, interpolation).sigmoid()
    masks = masks.view(-1, 1, height, width)
    for image, part in zip(detections, masks.split(counts), strict=True):
        image.pred_masks = part
    return detections


def blend(regions, attention, attn_size, interpolation):
    """Blend regions by attentions; see :meth:`Blender.merge_bases`."""
    count, _, height, width = regions.shape
    maps = attention.view(count, -1, attn_size, attn_size)
    weights = F.interpolate(maps, size=(height, width), mode=interpolation).softmax(dim=1)
    return (regions * weights).sum(dim=1).flatten(1)
