"""detectron2's R-CNNs, Panoptic FPN included: a core of the image, and cores of regions.

Proposals come from NMS, and detections from another one, so heads that look at regions are cores of
their own: ``box`` (in a cascade ``box_1``, ``box_2``, …), ``mask`` and ``keypoint``. They take the
regions that a pooler crops from the feature maps, which the core of the image also gives.
"""

from torch import nn

from . import schema
from .core import Core
from .family import FAMILY_REGISTRY, Family, refuse_part, runs_as
from .parts import (
    COMBINE,
    DELTAS,
    IMAGE,
    LEVELS,
    POOLER,
    SEM_SEG,
    delta_settings,
    image_core,
    image_settings,
    pooler_settings,
    sem_seg_logits,
    sem_seg_settings,
)
from .proposals import RPN_SETTINGS, rpn_names, rpn_raw, rpn_settings

_REGIONS = schema.record(levels=LEVELS, pooler=POOLER)
_BOXES = schema.record(
    levels=LEVELS,
    pooler=POOLER,
    stages=schema.list_of(
        schema.record(
            core=schema.name, box_deltas=DELTAS, scores=schema.one_of("softmax", "sigmoid")
        ),
        most=16,
    ),
    score_threshold=schema.number(),
    nms_threshold=schema.number(),
    max_detections=schema.integer(),
)
_SETTINGS = {
    "image": IMAGE,
    "rpn": schema.optional(RPN_SETTINGS),
    "box": _BOXES,
    "mask": schema.optional(_REGIONS),
    "keypoint": schema.optional(_REGIONS),
}
_STANDARD = ("_forward_mask", "_forward_keypoint", "forward_with_given_boxes")


class _OnRegions(nn.Module):
    """A head behind what crops regions.

    Args:
        body (nn.Module | None): runs first, for example res5 of the C4 heads.
        average (bool): average over the positions of a region then.
        head (nn.Module): runs last.
        method (str): of the head: ``"forward"``, or ``"layers"`` if its forward also decodes.
    """

    def __init__(self, body, average, head, method):
        super().__init__()
        self.body, self.head = body, head
        self._average, self._method = average, method

    def forward(self, regions):
        """Map (n, C, R, R) to what the head predicts."""
        x = regions if self.body is None else self.body(regions)
        x = x.mean(dim=[2, 3]) if self._average else x
        found = getattr(self.head, self._method)(x)
        return found if isinstance(found, tuple) else (found,)


class _Heads:
    """The heads of a model that look at regions: what they see, and their cores.

    Args:
        model (nn.Module): an R-CNN.

    Attributes:
        cores (dict[str, Core]): in the order in which they run.
        settings (dict): ``"box"``, ``"mask"``, ``"keypoint"``.
    """

    def __init__(self, model):
        self._model, heads = model, model.roi_heads
        self.cores = {}
        if runs_as(heads, "forward", "Res5ROIHeads") and runs_as(
            heads, "_shared_roi_transform", "Res5ROIHeads"
        ):
            self._c4(heads)
        elif all(runs_as(heads, method, "StandardROIHeads") for method in _STANDARD):
            self._standard(heads)
        else:
            raise refuse_part(model, heads)

    def _c4(self, heads):
        seen = self._seen(heads.in_features, heads.pooler)
        self.settings = {
            "box": {**seen, **self._boxes(seen, [(heads.res5, heads.box_predictor)], average=True)},
            "mask": seen if heads.mask_on else None,
            "keypoint": None,
        }
        if heads.mask_on:
            self._head("mask", heads.mask_head, seen, heads.res5)

    def _standard(self, heads):
        seen = self._seen(heads.box_in_features, heads.box_pooler)
        if runs_as(heads, "_forward_box", "CascadeROIHeads"):
            if not runs_as(heads, "_run_stage", "CascadeROIHeads"):
                raise refuse_part(self._model, heads)
            stages = list(zip(heads.box_head, heads.box_predictor))
        elif runs_as(heads, "_forward_box", "StandardROIHeads"):
            stages = [(heads.box_head, heads.box_predictor)]
        else:
            raise refuse_part(self._model, heads)
        self.settings = {
            "box": {**seen, **self._boxes(seen, stages)},
            "mask": None,
            "keypoint": None,
        }
        for name in ("mask", "keypoint"):
            if not getattr(heads, f"{name}_on"):
                continue
            levels, pooler, head = (
                getattr(heads, f"{name}_{part}") for part in ("in_features", "pooler", "head")
            )
            # A head without a pooler, such as PointRend's, crops regions itself.
            if pooler is None:
                raise refuse_part(self._model, head)
            self.settings[name] = self._seen(levels, pooler)
            self._head(name, head, self.settings[name])

    def _seen(self, levels, pooler):
        return {"levels": list(levels), "pooler": pooler_settings(self._model, pooler)}

    def _boxes(self, seen, stages, average=False):
        found = []
        for i, (body, predictor) in enumerate(stages, 1):
            methods = ("forward", "inference", "predict_boxes", "predict_probs")
            if not all(runs_as(predictor, x, "FastRCNNOutputLayers") for x in methods):
                raise refuse_part(self._model, predictor)
            name = "box" if len(stages) == 1 else f"box_{i}"
            module = _OnRegions(body, average, predictor, "forward")
            self._core(
                name, module, seen, {"scores": ("regions", None), "deltas": ("regions", None)}
            )
            found.append(
                {
                    "core": name,
                    "box_deltas": delta_settings(self._model, predictor.box2box_transform),
                    "scores": "sigmoid" if predictor.use_sigmoid_ce else "softmax",
                }
            )
        return {
            "stages": found,
            "score_threshold": float(predictor.test_score_thresh),
            "nms_threshold": float(predictor.test_nms_thresh),
            "max_detections": int(predictor.test_topk_per_image),
        }

    def _head(self, name, head, seen, body=None):
        if not runs_as(head, "forward", "BaseMaskRCNNHead", "BaseKeypointRCNNHead"):
            raise refuse_part(self._model, head)
        output = {"mask": "masks", "keypoint": "heatmaps"}[name]
        shape = ("regions", None, None, None)
        self._core(name, _OnRegions(body, False, head, "layers"), seen, {output: shape})

    def _core(self, name, module, seen, outputs):
        shapes = self._model.backbone.output_shape()
        channels = shapes[seen["levels"][0]].channels
        inputs = {"regions": ("regions", channels, *seen["pooler"]["output_size"])}
        self.cores[name] = Core(module.eval(), inputs, outputs, sizes={"regions": 8})

    def levels(self):
        """The feature maps that some head sees, each once."""
        seen = [x["levels"] for x in self.settings.values() if x is not None]
        return list(dict.fromkeys(level for levels in seen for level in levels))


def _take_apart(model, parts=None, more=None, names=()):
    """Cores and settings of any R-CNN; ``more`` runs further heads on the whole image."""
    heads, generator = _Heads(model), model.proposal_generator
    rpn = None if generator is None else rpn_settings(model)
    levels, parts = heads.levels(), dict(parts or {})
    if rpn is not None:
        parts["rpn_head"] = generator.rpn_head

    def whole_image(core, features):
        raw = [] if rpn is None else rpn_raw(core.rpn_head, features, rpn["levels"])
        raw += [features[level] for level in levels]
        return [*raw, *(more(core, features) if more else ())]

    outputs = [*(rpn_names(rpn["levels"]) if rpn else ()), *levels, *names]
    image = image_core(model, parts, whole_image, outputs)
    settings = {"image": image_settings(model), "rpn": rpn, **heads.settings}
    return {"image": image, **heads.cores}, settings


@FAMILY_REGISTRY.register()
class RCNN(Family):
    """Fast, Faster, Mask, Keypoint and Cascade R-CNN, with FPN, C4 or DC5."""

    settings = schema.record(**_SETTINGS)

    @classmethod
    def matches(cls, model):
        return all(runs_as(model, x, "GeneralizedRCNN") for x in ("forward", "inference"))

    @classmethod
    def take_apart(cls, model):
        return _take_apart(model)


@FAMILY_REGISTRY.register()
class PanopticFPN(Family):
    """A Mask R-CNN whose core of the image also gives ``sem_seg``."""

    settings = schema.record(**_SETTINGS, sem_seg=SEM_SEG, combine=COMBINE)

    @classmethod
    def matches(cls, model):
        return all(runs_as(model, x, "PanopticFPN") for x in ("forward", "inference"))

    @classmethod
    def take_apart(cls, model):
        def more(core, features):
            return [sem_seg_logits(core.sem_seg_head, features)]

        parts = {"sem_seg_head": model.sem_seg_head}
        cores, settings = _take_apart(model, parts, more, ["sem_seg"])
        combine = {
            "overlap": float(model.combine_overlap_thresh),
            "stuff_area": float(model.combine_stuff_area_thresh),
            "instance_score": float(model.combine_instances_score_thresh),
        }
        sem_seg = sem_seg_settings(model, model.sem_seg_head)
        return cores, {**settings, "sem_seg": sem_seg, "combine": combine}
