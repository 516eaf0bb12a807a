"""FCOS of AdelaiDet or our own, without a second stage: boxes from every location."""

from . import schema
from .family import FAMILY_REGISTRY, Family, runs_as
from .parts import IMAGE, KEPT, LEVELS, STRIDES, image_core, image_settings

FCOS_SETTINGS = schema.record(
    levels=LEVELS,
    strides=STRIDES,
    **KEPT,
    threshold_with_ctrness=schema.boolean,
)
# Maps of each level; the last where there is a top layer.
RAW = ("logits", "deltas", "ctrness", "top_feats")


def is_fcos(generator):
    """Whether a proposal generator is AdelaiDet's FCOS or our own."""
    return runs_as(generator, "forward", "FCOS") and hasattr(generator, "fcos_outputs")


def take_fcos_apart(model, top=None, parts=None, more=None, names=()):
    """The core of the image, and the settings, of any model with FCOS.

    Args:
        model (nn.Module): with a ``proposal_generator``.
        top (str): attribute of the model: the layer that FCOS runs beside its own predictions.
        parts (dict[str, nn.Module]): what ``more`` runs.
        more (Callable): from the module and a dict of feature maps to further outputs.
        names (Sequence[str]): of these.

    Returns:
        tuple[dict[str, Core], dict]: ``"image"``, and ``"image"`` and ``"fcos"``.
    """
    generator = model.proposal_generator
    levels = list(generator.in_features)
    parts = {"fcos_head": generator.fcos_head, **(parts or {})}
    if top is not None:
        parts[top] = getattr(model, top)

    def heads(core, features):
        layer = None if top is None else getattr(core, top)
        found = core.fcos_head([features[level] for level in levels], layer, False)
        raw = [each for kind in found[: len(kinds)] for each in kind]
        return [*raw, *(more(core, features) if more else ())]

    kinds = RAW[:3] if top is None else RAW
    outputs = [f"{kind}_{level}" for kind in kinds for level in levels]
    core = image_core(model, parts, heads, [*outputs, *names])
    return {"image": core}, {"image": image_settings(model), "fcos": _settings(generator)}


def _settings(generator):
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
        cores, settings = take_fcos_apart(model)
        proposals = runs_as(model, "forward", "ProposalNetwork")
        return cores, {**settings, "result": "proposals" if proposals else "instances"}
