"""detectron2's region proposal network, alone or in front of heads that look at regions."""

from . import schema
from .family import FAMILY_REGISTRY, Family, refuse_part, runs_as
from .parts import (
    ANCHORS,
    COUNT,
    DELTAS,
    IMAGE,
    LEVELS,
    anchor_settings,
    delta_settings,
    image_core,
    image_settings,
)

RPN_SETTINGS = schema.record(
    levels=LEVELS,
    anchors=ANCHORS,
    box_deltas=DELTAS,
    max_candidates=COUNT,
    nms_threshold=schema.number(),
    max_proposals=schema.integer(),
    min_size=schema.number(),
)


def rpn_settings(model):
    """How proposals are decoded.

    Args:
        model (nn.Module): with a ``proposal_generator``.

    Returns:
        dict: see ``RPN_SETTINGS``.

    Raises:
        DeployError: the generator is of another class than upstream's.
    """
    rpn = model.proposal_generator
    if not all(
        runs_as(rpn, x, "RPN") for x in ("forward", "predict_proposals", "_decode_proposals")
    ):
        raise refuse_part(model, rpn)
    return {
        "levels": list(rpn.in_features),
        "anchors": anchor_settings(model, rpn.anchor_generator),
        "box_deltas": delta_settings(model, rpn.box2box_transform),
        "max_candidates": int(rpn.pre_nms_topk[False]),
        "nms_threshold": float(rpn.nms_thresh),
        "max_proposals": int(rpn.post_nms_topk[False]),
        "min_size": float(rpn.min_box_size),
    }


def rpn_names(levels):
    """Names of the raw outputs.

    Args:
        levels (list[str]): feature maps that the head sees.
    """
    return [f"{kind}_{level}" for kind in ("objectness", "deltas") for level in levels]


def rpn_raw(head, features, levels):
    """Run the head.

    Returns:
        list[Tensor]: in the order of :func:`rpn_names`.
    """
    objectness, deltas = head([features[level] for level in levels])
    return [*objectness, *deltas]


@FAMILY_REGISTRY.register()
class ProposalNetwork(Family):
    """detectron2's ``ProposalNetwork`` with its RPN."""

    settings = schema.record(image=IMAGE, rpn=RPN_SETTINGS)

    @classmethod
    def matches(cls, model):
        known = runs_as(model, "forward", "ProposalNetwork")
        return known and runs_as(model.proposal_generator, "forward", "RPN")

    @classmethod
    def take_apart(cls, model):
        settings = rpn_settings(model)
        levels = settings["levels"]

        def heads(core, features):
            return rpn_raw(core.rpn_head, features, levels)

        head = {"rpn_head": model.proposal_generator.rpn_head}
        core = image_core(model, head, heads, rpn_names(levels))
        return {"image": core}, {"image": image_settings(model), "rpn": settings}
