"""detectron2's dense detectors: RetinaNet, and the FCOS that is one of them."""

from . import schema
from .family import FAMILY_REGISTRY, Family, runs_as
from .parts import (
    ANCHORS,
    COUNT,
    DELTAS,
    IMAGE,
    KEPT,
    LEVELS,
    anchor_settings,
    delta_settings,
    image_core,
    image_settings,
)


class _Dense(Family):
    """One core: logits and deltas of each level, and what ``kinds`` names beside these."""

    kinds = ("logits", "deltas")
    settings = schema.record(
        image=IMAGE,
        levels=LEVELS,
        anchors=ANCHORS,
        box_deltas=DELTAS,
        num_classes=COUNT,
        **KEPT,
    )

    @classmethod
    def take_apart(cls, model):
        levels = list(model.head_in_features)

        def heads(core, features):
            found = core.head([features[level] for level in levels])
            return [each for kind in found for each in kind]

        outputs = [f"{kind}_{level}" for kind in cls.kinds for level in levels]
        return {"image": image_core(model, {"head": model.head}, heads, outputs)}, {
            "image": image_settings(model),
            "levels": levels,
            "anchors": anchor_settings(model, model.anchor_generator),
            "box_deltas": delta_settings(model, model.box2box_transform),
            "num_classes": int(model.num_classes),
            "score_threshold": float(model.test_score_thresh),
            "max_candidates": int(model.test_topk_candidates),
            "nms_threshold": float(model.test_nms_thresh),
            "max_detections": int(model.max_detections_per_image),
        }


@FAMILY_REGISTRY.register()
class RetinaNet(_Dense):
    """detectron2's RetinaNet."""

    @classmethod
    def matches(cls, model):
        return _decodes_as(model, "RetinaNet")


@FAMILY_REGISTRY.register()
class DenseFCOS(_Dense):
    """detectron2's FCOS; AdelaiDet's is another family."""

    kinds = ("logits", "deltas", "ctrness")

    @classmethod
    def matches(cls, model):
        return _decodes_as(model, "FCOS")


def _decodes_as(model, name):
    return (
        runs_as(model, "forward", "DenseDetector")
        and runs_as(model, "forward_inference", name)
        and runs_as(model, "inference_single_image", name)
    )
