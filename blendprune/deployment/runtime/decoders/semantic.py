"""detectron2's semantic segmentation."""

from .results import semantic


class SemanticSegmentorDecoder:
    """Logits of each pixel.

    Args:
        settings (dict): of the family SemanticSegmentor.
    """

    def __init__(self, settings):
        self._settings = settings

    def __call__(self, raw, images, batched_inputs, _):
        maps = semantic(raw, self._settings, images, batched_inputs)
        return [{"sem_seg": each} for each in maps]
