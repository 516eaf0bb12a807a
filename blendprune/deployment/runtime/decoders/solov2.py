"""SOLOv2 (arXiv:2003.10152): kernels of grid cells, convolved with one map; Matrix NMS."""

import math

import torch
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from .results import output_sizes


class SOLOv2Decoder:
    """Masks with scores; boxes are zero, as upstream's are.

    Args:
        settings (dict): of the family SOLOv2.
    """

    def __init__(self, settings):
        self._settings = settings
        strides = zip(settings["grids"], settings["strides"])
        self._min_areas = torch.cat([torch.full((g * g,), float(s)) for g, s in strides])

    def __call__(self, raw, images, batched_inputs, _):
        levels = self._settings["levels"]
        # (N, cells of all grids, D).
        scores, kernels = (
            torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
            for maps in (
                [_peaks(raw[f"categories_{level}"].sigmoid()) for level in levels],
                [raw[f"kernels_{level}"] for level in levels],
            )
        )
        sizes = zip(images.image_sizes, output_sizes(images, batched_inputs))
        return [
            {"instances": self._instances(scores[i], kernels[i], raw["masks"][i], *pair)}
            for i, pair in enumerate(sizes)
        ]

    def _instances(self, scores, kernels, features, image_size, size):
        settings = self._settings
        cells, classes = (scores > settings["score_threshold"]).nonzero(as_tuple=True)
        scores = scores[cells, classes]
        masks = torch.einsum("nc,chw->nhw", kernels[cells], features).sigmoid()

        inside = masks > settings["mask_threshold"]
        areas = inside.sum((1, 2)).float()
        # A mask must be larger than a cell of its level.
        kept = areas > self._min_areas[cells]
        scores, classes, masks, inside, areas = (
            x[kept] for x in (scores, classes, masks, inside, areas)
        )
        scores = scores * (masks * inside).sum((1, 2)) / areas
        best = scores.argsort(descending=True)[: settings["max_candidates"]]
        scores, classes, masks, inside = (x[best] for x in (scores, classes, masks, inside))

        scores, kept = self._nms(scores, classes, inside.flatten(1).float())
        scores, classes, masks = scores[kept], classes[kept], masks[kept]
        best = scores.argsort(descending=True)[: settings["max_detections"]]

        found = Instances(size)
        found.pred_classes, found.scores = classes[best], scores[best]
        found.pred_masks = self._pasted(masks[best], image_size, size)
        found.pred_boxes = Boxes(torch.zeros(len(best), 4))
        return found

    def _nms(self, scores, classes, inside):
        """New scores, and which instances stay; sorted by score, ``inside`` is (n, H * W)."""
        settings = self._settings
        shared = inside @ inside.t()
        areas = inside.sum(1)
        overlaps = shared / (areas[:, None] + areas - shared)
        # Of each pair of one class, the row has the higher score.
        overlaps = (overlaps * (classes[:, None] == classes)).triu(diagonal=1)
        if settings["nms"] == "mask":
            kept = torch.ones(len(scores), dtype=torch.bool)
            for i in range(len(scores)):
                if kept[i]:
                    kept &= overlaps[i] <= settings["mask_threshold"]
            return scores, kept
        if len(scores) > 0:
            scores = scores * _decay(overlaps, settings["nms_kernel"], settings["nms_sigma"])
        return scores, scores >= settings["min_score"]

    def _pasted(self, masks, image_size, size):
        """Masks (n, H, W) of the padded image's cells → (n, height, width), bool."""
        if len(masks) == 0:
            return torch.zeros(0, *size, dtype=torch.bool)
        height, width = image_size
        cell = math.ceil(height / masks.shape[1])
        enlarged = [side * cell for side in masks.shape[1:]]
        masks = F.interpolate(masks[None], size=enlarged, mode="bilinear")[:, :, :height, :width]
        masks = F.interpolate(masks, size=size, mode="bilinear")[0]
        return masks > self._settings["mask_threshold"]


def _peaks(scores):
    """Zero where a cell above, to the left, or both, has a higher score; (N, K, S, S)."""
    highest = F.max_pool2d(scores, 2, stride=1, padding=1)[:, :, :-1, :-1]
    return scores * (highest == scores)


def _decay(overlaps, kernel, sigma):
    """Matrix NMS, equations 4 and 5 of the paper: a factor for each instance."""
    # How far each instance that suppresses is suppressed itself.
    own = overlaps.max(0).values[:, None]
    if kernel == "linear":
        factors = (1 - overlaps) / (1 - own)
    else:
        factors = torch.exp(-sigma * overlaps**2) / torch.exp(-sigma * own**2)
    return factors.min(0).values
