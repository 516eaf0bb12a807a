"""detectron2's semantic segmentation."""

from .results import semantic


class SemanticSegmentorDecoder:
    """Logits of each pixel.

    Args:
        settings (dict): of the family SemanticSegmentor.
    """

    def __init__(self, settings):
        self._stride = settings["sem_seg"]["stride"]

    def __call__(self, run, images, batched_inputs):
        raw = run("image", {"images": images.tensor})
        maps = semantic(raw["sem_seg"], self._stride, images, batched_inputs)
        return [{"sem_seg": each} for each in maps]
