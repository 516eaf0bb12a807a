"""A detector on calibration images, so that two models see the same at every layer.

What the heads of a region-based detector see depends on what the stages before them found. A pruned
model finds something else than the dense one, and its rows would not be rows of the same things; so
both run on what the dense one found.
"""

from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage

from ..architectures.rcnn import has_regions, rcnn_stages
from ..graph.outputs import stages
from ..tracing.hooks import forward_hooks
from ..tracing.snapshot import keeping_state

# Regions of an image that the box head sees, and that the other heads see.
_PROPOSALS, _DETECTIONS = 128, 32


def given_regions(model, batch):
    """What an R-CNN finds on images.

    Args:
        model (nn.Module): the dense model in eval mode.
        batch (list[dict]): ``"image"``, (C, H, W); for a model without a proposal generator
            ``"proposals"``, as detectron2's loaders give them.

    Returns:
        tuple[list[Boxes], list[Boxes]] | None: proposals and detections of each image, at least
        one; None for another architecture, or without proposals.
    """
    generator = getattr(model, "proposal_generator", None)
    if not has_regions(model) or (generator is None and "proposals" not in batch[0]):
        return None
    proposals = [] if generator else [each["proposals"] for each in batch]

    def keep(_, inputs, output):
        proposals.extend(output[0])

    with forward_hooks([generator] if generator else [], keep):
        found = model.inference(batch, do_postprocess=False)
    # A panoptic model gives the semantic segmentation, too.
    found = found[0] if isinstance(found, tuple) else found
    return (
        [_some(x.proposal_boxes, x.image_size, _PROPOSALS) for x in proposals],
        [_some(x.pred_boxes, x.image_size, _DETECTIONS) for x in found],
    )


def run(model, batch, regions=None):
    """Run the layers of a detector that see whole images, and those of an R-CNN that see regions.

    What runs once a detected instance elsewhere (FCPose, BAText, …) is left out. Counters, such as
    the one of a list of norms that tells which level of the pyramid is next, stay as they were,
    also when a hook breaks the run off.

    Args:
        model (nn.Module): in eval mode.
        batch (list[dict]): ``"image"``, (C, H, W).
        regions (tuple): from :func:`given_regions`, of the same images.
    """
    with keeping_state(model), EventStorage():
        if regions is None:
            image, _ = stages(model, batch, inference_only=False)[0]
            image(1)
            return
        image, boxes, detections = (stage for stage, _ in rcnn_stages(model, batch))
        proposals, found = regions
        image(1)
        boxes(proposals)
        detections(found)


def _some(boxes, size, most):
    if len(boxes) == 0:
        boxes = Boxes(boxes.tensor.new_tensor([[0, 0, size[1], size[0]]]))
    return boxes[:most]
