"""PointRend: a point head refines what a coarse head predicts."""

from .default import Architecture
from .rcnn import RCNN
from .registry import register_architecture

# Their output is a prediction although a point head reads it.
_COARSE_HEADS = ("coarse_head", "coarse_sem_seg_head", "parameter_head")


@register_architecture
class PointRend(Architecture):
    """PointRend for semantic segmentation."""

    @classmethod
    def matches(cls, model):
        return bool(_coarse_heads(model))

    def prediction_heads(self):
        return _coarse_heads(self.model)


@register_architecture
class PointRendRCNN(RCNN):
    """PointRend for instance segmentation, implicit or not."""

    @classmethod
    def matches(cls, model):
        return super().matches(model) and bool(_coarse_heads(model))

    def prediction_heads(self):
        return _coarse_heads(self.model)


def _coarse_heads(model):
    return [
        part for name, part in model.named_modules() if name.rpartition(".")[2] in _COARSE_HEADS
    ]
