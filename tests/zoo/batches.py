"""Random images with labels for every kind of loss."""

import torch
from detectron2.config import CfgNode


def training_batch(config, size, count=2):
    """Random images with whatever labels the losses of a model may read.

    Args:
        config (CfgNode | DictConfig): from :func:`load_config`.
        size (int): side in pixels, at least 32.
        count (int): number of images.

    Returns:
        list[dict]: detectron2's format: ``"image"`` (C, size, size), ``"instances"`` with boxes,
        classes (all 0), masks, keypoints and (BAText, FCPose) texts and heatmaps, ``"sem_seg"`` and
        ``"basis_sem"`` (size, size), ``"proposals"``, and the center heatmap and offsets
        (2, size, size) of Panoptic-DeepLab.
    """
    from detectron2.structures import BitMasks, Boxes, Instances, Keypoints

    yaml = isinstance(config, CfgNode)
    channels = len(config.MODEL.PIXEL_MEAN) if yaml else 3
    points = max(config.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, 1) if yaml else 17
    random = torch.Generator().manual_seed(0)
    corners = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.9]]) * size
    batch = []
    for _ in range(count):
        instances = Instances((size, size))
        instances.gt_boxes = Boxes(corners.clone())
        instances.gt_classes = torch.zeros(2, dtype=torch.long)
        masks = torch.zeros(2, size, size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, corners.int().tolist()):
            mask[y0:y1, x0:x1] = True
        instances.gt_masks = BitMasks(masks)
        where = torch.rand(2, points, 2, generator=random)
        where = corners[:, None, :2] + where * (corners[:, None, 2:] - corners[:, None, :2])
        visible = torch.full((2, points, 1), 2.0)
        instances.gt_keypoints = Keypoints(torch.cat([where, visible], 2))
        proposals = Instances((size, size))
        proposals.proposal_boxes = Boxes(corners.clone() * 0.95)
        proposals.objectness_logits = torch.zeros(2)
        if yaml and config.MODEL.META_ARCHITECTURE == "OneStageRCNN":
            label_texts(instances, config)
        if yaml and config.MODEL.get("FCPOSE_ON", False):
            label_heatmaps(instances, config)
        image = 255 * torch.rand(channels, size, size, generator=random)
        batch.append(
            {
                "image": image,
                "instances": instances,
                "proposals": proposals,
                "height": size,
                "width": size,
                "sem_seg": masks.any(0).long(),
                "basis_sem": masks.any(0).long(),
                "center": masks.any(0).float(),
                "center_weights": torch.ones(size, size),
                "offset": torch.rand(2, size, size, generator=random),
                "offset_weights": torch.ones(size, size),
            }
        )
    return batch


def label_texts(instances, cfg):
    """Give each object the Bezier curves of its box and a random text, as BAText's mapper does.

    ``"beziers"`` (N, 16): x and y of the control points of the upper edge from left to right, and
    of the lower one from right to left. ``"text"`` (N, BATEXT.NUM_CHARS): classes of characters,
    filled up with VOC_SIZE, which is none.
    """
    size, most = cfg.MODEL.BATEXT.VOC_SIZE, cfg.MODEL.BATEXT.NUM_CHARS
    curves = []
    for x0, y0, x1, y1 in instances.gt_boxes.tensor.tolist():
        along = torch.linspace(x0, x1, 4)
        upper = torch.stack([along, torch.full((4,), y0)], 1)
        lower = torch.stack([along.flip(0), torch.full((4,), y1)], 1)
        curves.append(torch.cat([upper, lower]).flatten())
    instances.beziers = torch.stack(curves)
    instances.text = torch.randint(size, (len(instances), most), dtype=torch.int32)
    instances.text[:, most // 2 :] = size


def label_heatmaps(instances, cfg):
    """Draw the heatmaps of the keypoints, by what FCPose's mapper draws them with."""
    from adet.data.detection_utils import HeatmapGenerator

    how = cfg.MODEL.FCPOSE
    draw = HeatmapGenerator(17, how.HEATMAP_SIGMA, how.HEAD_HEATMAP_SIGMA)
    draw(instances, how.GT_HEATMAP_STRIDE)
