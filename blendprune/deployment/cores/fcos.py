"""FCOS of AdelaiDet or our own, without a second stage: boxes from every location."""

from . import schema
from .family import FAMILY_REGISTRY, Family, runs_as
from .parts import COUNT, IMAGE, LEVELS, STRIDES, image_core, image_settings

FCOS_SETTINGS = schema.record(
    levels=LEVELS,
    strides=STRIDES,
    score_threshold=schema.number(),
    max_candidates=COUNT,
    nms_threshold=schema.number(),
    max_detections=schema.integer(),
    threshold_with_ctrness=schema.boolean,
)
RAW = ("logits", "deltas", "ctrness", "top_feats")


def is_fcos(generator):
    """Whether a proposal generator is AdelaiDet's FCOS or our own."""
    return runs_as(generator, "forward", "FCOS") and hasattr(generator, "fcos_outputs")


def fcos_settings(generator):
    """How FCOS decodes; see ``FCOS_SETTINGS``."""
    outputs, levels = generator.fcos_outputs, list(generator.in_features)
    return {
        "levels": levels,
        "strides": [int(stride) for stride in generator.fpn_strides][: len(levels)],
        "score_threshold": float(outputs.pre_nms_thresh_test),
        "max_candidates": int(outputs.pre_nms_topk_test),
        "nms_threshold": float(outputs.nms_thresh),
        "max_detections": int(outputs.post_nms_topk_test),
        "threshold_with_ctrness": bool(outputs.thresh_with_ctr),
    }


def fcos_names(generator, top_feats=False):
    """Names of the raw outputs, all levels of one kind after another."""
    kinds = RAW if top_feats else RAW[:3]
    return [f"{kind}_{level}" for kind in kinds for level in generator.in_features]


def fcos_raw(head, features, levels, top_module=None):
    """Run the head of FCOS.

    Returns:
        list[Tensor]: in the order of :func:`fcos_names`.
    """
    found = head([features[level] for level in levels], top_module, False)
    kinds = found[: 3 if top_module is None else 4]
    return [each for kind in kinds for each in kind]


@FAMILY_REGISTRY.register()
class FCOS(Family):
    """AdelaiDet's ``OneStageDetector``, and detectron2's ``ProposalNetwork``, with FCOS."""

    settings = schema.record(
        image=IMAGE, fcos=FCOS_SETTINGS, result=schema.one_of("instances", "proposals")
    )

    @classmethod
    def matches(cls, model):
        known = runs_as(model, "forward", "OneStageDetector", "ProposalNetwork")
        return known and is_fcos(model.proposal_generator)

    @classmethod
    def take_apart(cls, model):
        generator = model.proposal_generator
        levels = list(generator.in_features)

        def heads(core, features):
            return fcos_raw(core.fcos_head, features, levels)

        core = image_core(model, {"fcos_head": generator.fcos_head}, heads, fcos_names(generator))
        proposals = runs_as(model, "forward", "ProposalNetwork")
        return {"image": core}, {
            "image": image_settings(model),
            "fcos": fcos_settings(generator),
            "result": "proposals" if proposals else "instances",
        }
