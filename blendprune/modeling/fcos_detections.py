"""Detections from the raw outputs of FCOS (arXiv:1904.01355)."""

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances

__all__ = ["fcos_detections"]


def fcos_detections(
    logits_pred,
    reg_pred,
    ctrness_pred,
    locations,
    image_sizes,
    top_feats=(),
    *,
    strides,
    score_threshold,
    max_candidates,
    nms_threshold,
    max_detections,
    threshold_with_ctrness,
):
    """Turn the head's outputs into detections.

    Args:
        logits_pred (list[Tensor]): class logits (N, classes, H, W) per level.
        reg_pred (list[Tensor]): distances to the edges, in strides, (N, 4, H, W) per level.
        ctrness_pred (list[Tensor]): quality logits (N, 1, H, W) per level.
        locations (list[Tensor]): (H*W, 2) per level, in pixels.
        image_sizes (list[tuple[int, int]]): height and width per image.
        top_feats (list[Tensor]): (N, D, H, W) per level, or empty.
        strides (Sequence[int]): pixels per cell of each level.
        score_threshold (float): for the class score.
        max_candidates (int): kept per image and level before NMS.
        nms_threshold (float): IoU; no NMS if it is not positive.
        max_detections (int): kept per image after NMS; all if it is not positive.
        threshold_with_ctrness (bool): the threshold is for class score times quality.

    Returns:
        list[Instances]: per image, with ``pred_boxes``, ``scores``, ``pred_classes``,
        ``locations``, ``fpn_levels`` and, given top features, ``top_feat``.
    """
    results = []
    for i, size in enumerate(image_sizes):
        levels = []
        for level, points in enumerate(locations):
            candidates = _candidates(
                points,
                _rows(logits_pred[level][i]),
                _rows(reg_pred[level][i]) * strides[level],
                _rows(ctrness_pred[level][i]),
                _rows(top_feats[level][i]) if len(top_feats) > 0 else None,
                size,
                (score_threshold, max_candidates, threshold_with_ctrness),
            )
            candidates.fpn_levels = torch.full_like(candidates.pred_classes, level)
            levels.append(candidates)
        results.append(_select(Instances.cat(levels), nms_threshold, max_detections))
    return results


def _candidates(points, logits, distances, quality, top_feat, image_size, limits):
    threshold, most, threshold_with_ctrness = limits
    class_scores = logits.sigmoid()
    scores = class_scores * quality.sigmoid()
    passing = (scores if threshold_with_ctrness else class_scores) > threshold
    rows, classes = passing.nonzero(as_tuple=True)
    scores = scores[rows, classes]
    if len(scores) > most:
        scores, best = scores.topk(most, sorted=False)
        rows, classes = rows[best], classes[best]

    points, distances = points[rows], distances[rows]
    found = Instances(image_size)
    found.pred_boxes = Boxes(
        torch.cat([points - distances[:, :2], points + distances[:, 2:]], dim=1)
    )
    # The geometric mean of two probabilities stays on their scale.
    found.scores = scores.sqrt()
    found.pred_classes = classes
    found.locations = points
    if top_feat is not None:
        found.top_feat = top_feat[rows]
    return found


def _select(candidates, nms_threshold, limit):
    if nms_threshold > 0:
        keep = batched_nms(
            candidates.pred_boxes.tensor,
            candidates.scores,
            candidates.pred_classes,
            nms_threshold,
        )
        candidates = candidates[keep]
    if len(candidates) > limit > 0:
        # Keep detections that tie with the last one.
        last = candidates.scores.topk(limit).values[-1]
        candidates = candidates[candidates.scores >= last]
    return candidates


def _rows(x):
    # (D, H, W) to (H*W, D).
    return x.flatten(1).t()
