"""detectron2's dense detectors, by detectron2's own code: RetinaNet, and the FCOS that is one."""

from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from torch import nn

from .regions import Anchors, deltas_of
from .results import scaled


class _DenseDecoder:
    """Boxes relative to anchors, on the levels of a pyramid.

    Args:
        settings (dict): of the family.
    """

    kinds = ("logits", "deltas")

    def __init__(self, settings):
        self._levels = settings["levels"]
        # Upstream's model without its layers: its inference reads nothing but these settings.
        self._model = self._build(
            backbone=_Pyramid(self._levels, settings["anchors"]["strides"]),
            head=nn.Identity(),
            head_in_features=self._levels,
            box2box_transform=deltas_of(settings["box_deltas"]),
            num_classes=settings["num_classes"],
            test_score_thresh=settings["score_threshold"],
            test_topk_candidates=settings["max_candidates"],
            test_nms_thresh=settings["nms_threshold"],
            max_detections_per_image=settings["max_detections"],
            pixel_mean=settings["image"]["pixel_mean"],
            pixel_std=settings["image"]["pixel_std"],
        ).eval()
        self._model.anchor_generator = Anchors(settings["anchors"])

    def __call__(self, raw, images, batched_inputs, _):
        predictions = [[raw[f"{kind}_{level}"] for level in self._levels] for kind in self.kinds]
        found = self._model.forward_inference(images, predictions[0], predictions)
        return [{"instances": each} for each in scaled(found, images, batched_inputs)]


class _Pyramid(nn.Module):
    """What a constructor asks a backbone for: the strides of its levels."""

    def __init__(self, levels, strides):
        super().__init__()
        self._shapes = {x: ShapeSpec(stride=stride) for x, stride in zip(levels, strides)}

    def output_shape(self):
        return self._shapes


class RetinaNetDecoder(_DenseDecoder):
    """RetinaNet (arXiv:1708.02002)."""

    @staticmethod
    def _build(**settings):
        return RetinaNet(anchor_generator=None, anchor_matcher=None, **settings)


class DenseFCOSDecoder(_DenseDecoder):
    """FCOS as in detectron2's ``modeling/meta_arch/fcos.py``."""

    kinds = ("logits", "deltas", "ctrness")

    @staticmethod
    def _build(box2box_transform, **settings):
        model = FCOS(**settings)
        model.box2box_transform = box2box_transform
        return model
