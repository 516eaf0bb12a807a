"""detectron2's R-CNNs: the image, the box head on proposals, the other heads on detections."""

import torch
from detectron2.structures import Boxes

from ..tracing.hooks import forward_hooks
from .default import Architecture, Stage
from .given import given_instances
from .registry import register_architecture

# Upstream's defaults of RPN.POST_NMS_TOPK_TEST and TEST.DETECTIONS_PER_IMAGE, for models without a
# proposal generator or with predictors of their own, which do not hold these numbers.
_PROPOSALS, _DETECTIONS = 1000, 100
# Regions per image on which two models are compared: of the box head, and of the other heads.
_COMPARED_PROPOSALS, _COMPARED_DETECTIONS = 128, 32


@register_architecture
class RCNN(Architecture):
    """Three stages: the image, the box head, the heads that see detected boxes."""

    @classmethod
    def matches(cls, model):
        return hasattr(getattr(model, "roi_heads", None), "forward_with_given_boxes")

    def stages(self, batched_inputs, training_branches=False):
        """Backbone, proposal generator and semantic head; box head; mask and keypoint heads.

        The latter two stages also run on given regions: a list of Boxes, one per image.
        """
        image, boxes, detections = self._parts(batched_inputs)
        proposals, detected = self.region_limits()
        return [Stage(image), Stage(boxes, proposals), Stage(detections, detected)]

    def find_regions(self, batched_inputs):
        """Proposals and detections, at least one per image.

        Returns:
            tuple[list[Boxes], list[Boxes]] | None: None for a model without a proposal generator
            on inputs without ``"proposals"``.
        """
        generator = getattr(self.model, "proposal_generator", None)
        if generator is None and "proposals" not in batched_inputs[0]:
            return None
        proposals = [] if generator else [each["proposals"] for each in batched_inputs]

        def keep(_, inputs, output):
            proposals.extend(output[0])

        with forward_hooks([generator] if generator else [], keep):
            found = self.model.inference(batched_inputs, do_postprocess=False)
        # A panoptic model also gives the semantic segmentation.
        found = found[0] if isinstance(found, tuple) else found
        return (
            [_first(x.proposal_boxes, x.image_size, _COMPARED_PROPOSALS) for x in proposals],
            [_first(x.pred_boxes, x.image_size, _COMPARED_DETECTIONS) for x in found],
        )

    def run_on_regions(self, batched_inputs, regions=None):
        image, boxes, detections = self._parts(batched_inputs)
        image(1)
        proposals, detected = regions or (None, None)
        if proposals is not None:
            boxes(proposals)
        if detected is not None and sum(map(len, detected)):
            detections(detected)

    def region_poolers(self):
        names = ("box_pooler", "pooler", "mask_pooler", "keypoint_pooler")
        found = {name: getattr(self.model.roi_heads, name, None) for name in names}
        return {name: pooler for name, pooler in found.items() if pooler is not None}

    def pooled_regions(self, boxes):
        return (
            boxes.get("box_pooler", boxes.get("pooler")),
            boxes.get("mask_pooler", boxes.get("keypoint_pooler")),
        )

    def depends_on_earlier_predictions(self, name):
        """A cascade has one predictor per stage; each sees the boxes of the one before it."""
        predictors = getattr(self.model.roi_heads, "box_predictor", None)
        inside = name.startswith("roi_heads.box_predictor.")
        first = name.startswith("roi_heads.box_predictor.0.")
        return isinstance(predictors, torch.nn.ModuleList) and inside and not first

    def region_limits(self):
        """Most regions per image that reach the box head, and most that reach the other heads.

        Returns:
            tuple[int, int]: proposals after NMS, and detections.
        """
        limits = getattr(self.model.proposal_generator, "post_nms_topk", None) or {}
        predictor = getattr(self.model.roi_heads, "box_predictor", None)
        if isinstance(predictor, torch.nn.ModuleList):
            predictor = predictor[-1]
        detections = getattr(predictor, "test_topk_per_image", _DETECTIONS)
        proposals = limits.get(False, _PROPOSALS)
        # Upstream keeps everything if the number is negative.
        return proposals, detections if detections >= 0 else proposals

    def _parts(self, batched_inputs):
        model, images, features, kept = self.model, None, None, None

        def image(_):
            nonlocal images, features, kept
            images = model.preprocess_image(batched_inputs)
            features = model.backbone(images.tensor)
            if model.proposal_generator is not None:
                model.proposal_generator(images, features, None)
            if hasattr(model, "sem_seg_head"):
                # In memory until the whole forward ends.
                kept = model.sem_seg_head(features, None)

        def boxes(regions):
            given = given_instances(images, regions, "proposal_boxes")
            _run_box_head(model.roi_heads, features, given)

        def detections(regions):
            given = given_instances(images, regions, "pred_boxes")
            _run_other_heads(model.roi_heads, features, given)

        return image, boxes, detections


def _run_box_head(heads, features, proposals):
    if hasattr(heads, "_forward_box"):
        heads._forward_box(features, proposals)
    else:  # the C4 heads pool, run res5 and predict in one method that also runs the mask head
        pooled = heads._shared_roi_transform(
            [features[name] for name in heads.in_features], [x.proposal_boxes for x in proposals]
        )
        heads.box_predictor(pooled.mean(dim=[2, 3]))


def _run_other_heads(heads, features, given):
    if not getattr(heads, "keypoint_on", False):
        heads.forward_with_given_boxes(features, given)
        return
    heads._forward_mask(features, given)
    # The head itself goes on to search its heatmaps region by region in Python. That is slow, and
    # it asserts that they are finite.
    x = [features[name] for name in heads.keypoint_in_features]
    heads.keypoint_head.layers(heads.keypoint_pooler(x, [g.pred_boxes for g in given]))


def _first(boxes, size, count):
    if len(boxes) == 0:
        boxes = Boxes(boxes.tensor.new_tensor([[0, 0, size[1], size[0]]]))
    return boxes[:count]
