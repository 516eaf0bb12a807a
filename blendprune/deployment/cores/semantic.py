"""detectron2's semantic segmentation, DeepLab included."""

from . import schema
from .family import FAMILY_REGISTRY, Family, runs_as
from .parts import IMAGE, SEM_SEG, image_core, image_settings, sem_seg_logits, sem_seg_settings

_SIDES = schema.list_of(schema.integer(1, 65536), 2, 2)


@FAMILY_REGISTRY.register()
class SemanticSegmentor(Family):
    """One core: the logits before they are enlarged."""

    settings = schema.record(image=IMAGE, sem_seg=SEM_SEG, multiples=schema.optional(_SIDES))

    @classmethod
    def matches(cls, model):
        return runs_as(model, "forward", "SemanticSegmentor")

    @classmethod
    def take_apart(cls, model):
        settings = sem_seg_settings(model, model.sem_seg_head)

        def heads(core, features):
            return [sem_seg_logits(core.sem_seg_head, features)]

        multiples, parts = _multiples(model), {"sem_seg_head": model.sem_seg_head}
        core = image_core(model, parts, heads, ["sem_seg"], multiples)
        settings = {"image": image_settings(model), "sem_seg": settings, "multiples": multiples}
        return {"image": core}, settings


def _multiples(model):
    """Of what the sides of an image are multiples: the crop that DeepLab's pooling was built for.

    With INPUT.CROP.ENABLED, ASPP averages over windows of the size of the crop, and refuses maps
    whose sides are no multiples of it.
    """
    head = model.sem_seg_head
    windows = [getattr(module, "pool_kernel_size", None) for module in head.modules()]
    for window in filter(None, windows):
        stride = model.backbone.output_shape()[head.in_features[-1]].stride
        return [stride * side for side in window]
    return None
