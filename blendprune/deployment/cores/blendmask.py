"""BlendMask of AdelaiDet or our own, with or without a panoptic branch."""

from ...errors import DeployError
from . import schema
from .family import FAMILY_REGISTRY, Family, refuse_part, runs_as
from .fcos import FCOS_SETTINGS, is_fcos, take_fcos_apart
from .parts import (
    COMBINE,
    IMAGE,
    POOLER,
    SEM_SEG,
    SIDE,
    pooler_settings,
    sem_seg_logits,
    sem_seg_settings,
)


@FAMILY_REGISTRY.register()
class BlendMask(Family):
    """One core: FCOS's raw outputs with the attentions, and the bases."""

    settings = schema.record(
        image=IMAGE,
        fcos=FCOS_SETTINGS,
        pooler=POOLER,
        attention_size=SIDE,
        interpolation=schema.one_of("nearest", "bilinear", "bicubic", "area", "nearest-exact"),
        sem_seg=schema.optional(SEM_SEG),
        combine=schema.optional(COMBINE),
    )

    @classmethod
    def matches(cls, model):
        return runs_as(model, "forward", "BlendMask") and is_fcos(model.proposal_generator)

    @classmethod
    def take_apart(cls, model):
        basis, blender = model.basis_module, model.blender
        if not runs_as(basis, "forward", "ProtoNet"):
            raise refuse_part(model, basis)
        if not runs_as(blender, "__call__", "Blender"):
            raise refuse_part(model, blender)
        if basis.visualize:
            raise DeployError(
                "MODEL.BLENDMASK.VISUALIZE is True, which adds maps to the results that only "
                "serve debugging: set it to False for an export"
            )
        panoptic = bool(model.combine_on)

        def more(core, features):
            [bases] = core.basis_module(features)[0]["bases"]
            return [bases, sem_seg_logits(core.panoptic_module, features)] if panoptic else [bases]

        parts, names = {"basis_module": basis}, ["bases"]
        if panoptic:
            parts["panoptic_module"] = model.panoptic_module
            names.append("sem_seg")
        cores, settings = take_fcos_apart(model, "top_layer", parts, more, names)
        return cores, {
            **settings,
            "pooler": pooler_settings(model, blender.pooler),
            "attention_size": int(blender.attn_size),
            "interpolation": blender.top_interp,
            "sem_seg": sem_seg_settings(model, model.panoptic_module) if panoptic else None,
            "combine": _combine(model) if panoptic else None,
        }


def _combine(model):
    return {
        "overlap": float(model.combine_overlap_threshold),
        "stuff_area": float(model.combine_stuff_area_limit),
        "instance_score": float(model.combine_instances_confidence_threshold),
    }
