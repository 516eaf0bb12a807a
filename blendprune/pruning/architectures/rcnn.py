"""Two-stage detectors, run on given regions instead of on whatever they detect.

What the heads of a region-based detector compute depends on how many regions the stages before
them found: with random weights none at all, and a branch that sees no region is not in the graph.
So each stage runs on regions that are given, and the limits of the config say how many there are.
"""

import torch
from detectron2.structures import Boxes, Instances

# Upstream's defaults of RPN.POST_NMS_TOPK_TEST and TEST.DETECTIONS_PER_IMAGE, which models without
# a proposal generator, or with predictors of their own, do not hold.
_PROPOSALS, _DETECTIONS = 1000, 100


def has_regions(model):
    """Whether the model has detectron2's R-CNN parts: a backbone and RoI heads."""
    return hasattr(getattr(model, "roi_heads", None), "forward_with_given_boxes")


def rcnn_stages(model, batched_inputs):
    """An R-CNN in parts: image, box head, and the heads that see detected boxes.

    Args:
        model (nn.Module): GeneralizedRCNN or one of the same parts, in eval mode.
        batched_inputs (list[dict]): detectron2's format; only ``"image"``, (C, H, W), is read.

    Returns:
        list[tuple[Callable, int]]: as ``stages``. The image stage
        takes backbone, proposal generator and semantic head; the box stage runs on as many regions
        as there are proposals after NMS at most, the last one on as many as detections. Both also
        run on regions of one's own, a list of Boxes, one an image.
    """
    images, features = None, None

    def image(_):
        nonlocal images, features
        images = model.preprocess_image(batched_inputs)
        features = model.backbone(images.tensor)
        if model.proposal_generator is not None:
            model.proposal_generator(images, features, None)
        if hasattr(model, "sem_seg_head"):
            model.sem_seg_head(features, None)

    def boxes(regions):
        _run_box_head(model.roi_heads, features, given_instances(images, regions, "proposal_boxes"))

    def detections(regions):
        _run_other_heads(model.roi_heads, features, given_instances(images, regions, "pred_boxes"))

    proposals, detected = region_limits(model)
    return [(image, 1), (boxes, proposals), (detections, detected)]


def region_limits(model):
    """Most regions of an image that reach the box head, and most that reach the other heads.

    Returns:
        tuple[int, int]: proposals after NMS, and detections.
    """
    limits = getattr(model.proposal_generator, "post_nms_topk", None) or {}
    predictor = getattr(model.roi_heads, "box_predictor", None)
    if isinstance(predictor, torch.nn.ModuleList):
        predictor = predictor[-1]
    detections = getattr(predictor, "test_topk_per_image", _DETECTIONS)
    # A negative number is upstream's way to say that nothing is dropped.
    proposals = limits.get(False, _PROPOSALS)
    return proposals, detections if detections >= 0 else proposals


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
    # The head itself goes on to search its heatmaps region by region in Python, which takes long
    # and asserts that they are finite.
    x = [features[name] for name in heads.keypoint_in_features]
    heads.keypoint_head.layers(heads.keypoint_pooler(x, [g.pred_boxes for g in given]))


def _whole(images, count):
    """``count`` boxes for each image, every one the whole of it."""
    boxes = []
    for height, width in images.image_sizes:
        box = images.tensor.new_tensor([[0, 0, width, height]])
        boxes.append(Boxes(box.repeat(count, 1)))
    return boxes


def given_instances(images, boxes, field):
    """Boxes as instances of each image, with what the heads read.

    Args:
        images (ImageList): N of them.
        boxes (list[Boxes] | int): for each image, or how many, every one the whole of it.
        field (str): what the boxes are called.

    Returns:
        list[Instances]: N, with ``field``, ``pred_classes``, ``scores`` and ``objectness_logits``.
    """
    boxes = _whole(images, boxes) if isinstance(boxes, int) else boxes
    found = []
    for (height, width), each in zip(images.image_sizes, boxes):
        instances = Instances((int(height), int(width)))
        instances.set(field, each)
        instances.pred_classes = torch.zeros(len(each), dtype=torch.int64, device=each.device)
        instances.scores = each.tensor.new_ones(len(each))
        instances.objectness_logits = each.tensor.new_ones(len(each))
        found.append(instances)
    return found
