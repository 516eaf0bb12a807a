"""CondInst (arXiv:2003.05664): each instance has a mask head of its own, of a few 1x1 convs."""

import torch
from detectron2.structures import Instances
from torch.nn import functional as F

from ....modeling.aligned import enlarge_aligned
from ....modeling.fcos_targets import level_locations
from .fcos import decode_fcos
from .results import output_sizes

_THRESHOLD = 0.5


class CondInstDecoder:
    """Boxes with masks.

    Args:
        settings (dict): of the family CondInst.
    """

    def __init__(self, settings):
        self._settings = settings
        head = settings["mask_head"]
        if head["stride"] % head["out_stride"]:
            raise ValueError("stride is no multiple of out_stride")
        inputs = head["in_channels"] + 2 * head["coordinates"]
        widths = [inputs, *[head["width"]] * (head["layers"] - 1), 1]
        # (outputs, inputs) of each layer.
        self._shapes = list(zip(widths[1:], widths))

    def __call__(self, raw, images, batched_inputs, _):
        found = decode_fcos(raw, self._settings["fcos"], images.image_sizes, top_feats=True)
        results = []
        sizes = output_sizes(images, batched_inputs)
        for instances, features, size in zip(found, raw["mask_features"], sizes):
            logits = self._logits(instances, features)
            results.append({"instances": self._scaled(instances, logits.sigmoid(), size)})
        return results

    def _logits(self, instances, features):
        """Mask logits (n, 1, H, W) of the instances of an image, from its features (C, h, w)."""
        head, count = self._settings["mask_head"], len(instances)
        height, width = features.shape[1:]
        x = features[: head["in_channels"]].flatten(1).expand(count, -1, -1)
        if head["coordinates"]:
            points = level_locations(height, width, head["stride"], features.device)
            offsets = instances.locations[:, :, None] - points.t()
            sizes = torch.tensor(head["sizes"], dtype=offsets.dtype)[instances.fpn_levels]
            x = torch.cat([offsets / sizes[:, None, None], x], dim=1)
        for i, (weight, bias) in enumerate(self._layers(instances.top_feat)):
            x = torch.baddbmm(bias, weight, x if i == 0 else x.relu())
        factor = head["stride"] // head["out_stride"]
        return enlarge_aligned(x.view(count, 1, height, width), factor)

    def _layers(self, parameters):
        """Weight (n, out, in) and bias (n, out, 1) of each layer: all weights come first."""
        weights = [outputs * inputs for outputs, inputs in self._shapes]
        biases = [outputs for outputs, _ in self._shapes]
        parts = parameters.split([*weights, *biases], dim=1)
        for weight, bias, shape in zip(parts, parts[len(weights) :], self._shapes):
            yield weight.reshape(-1, *shape), bias[:, :, None]

    def _scaled(self, instances, masks, size):
        image_height, image_width = instances.image_size
        found = Instances(size, **instances.get_fields())
        found.pred_boxes.scale(size[1] / image_width, size[0] / image_height)
        found.pred_boxes.clip(size)
        kept = found.pred_boxes.nonempty()
        found = found[kept]
        masks = enlarge_aligned(masks[kept], self._settings["mask_head"]["out_stride"])
        masks = masks[:, :, :image_height, :image_width]
        if len(found) > 0:
            masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        else:
            masks = masks.new_zeros(0, 1, *size)
        found.pred_masks = (masks[:, 0] > _THRESHOLD).float()
        return found
