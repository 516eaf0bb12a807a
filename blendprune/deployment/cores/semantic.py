"""detectron2's semantic segmentation, DeepLab included."""

from . import schema
from .family import FAMILY_REGISTRY, Family, runs_as
from .parts import IMAGE, SEM_SEG, image_core, image_settings, sem_seg_logits, sem_seg_settings


@FAMILY_REGISTRY.register()
class SemanticSegmentor(Family):
    """One core: the logits before they are enlarged."""

    settings = schema.record(image=IMAGE, sem_seg=SEM_SEG)

    @classmethod
    def matches(cls, model):
        return runs_as(model, "forward", "SemanticSegmentor")

    @classmethod
    def take_apart(cls, model):
        settings = sem_seg_settings(model, model.sem_seg_head)

        def heads(core, features):
            return [sem_seg_logits(core.sem_seg_head, features)]

        core = image_core(model, {"sem_seg_head": model.sem_seg_head}, heads, ["sem_seg"])
        return {"image": core}, {"image": image_settings(model), "sem_seg": settings}
