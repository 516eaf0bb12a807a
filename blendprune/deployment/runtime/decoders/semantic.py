"""detectron2's semantic segmentation."""

from ....errors import DeployError
from .results import semantic


class SemanticSegmentorDecoder:
    """Logits of each pixel.

    Args:
        settings (dict): of the family SemanticSegmentor.
    """

    def __init__(self, settings):
        self._settings = settings

    def __call__(self, raw, images, batched_inputs, _):
        self._check(images.tensor.shape[-2:])
        maps = semantic(raw, self._settings, images, batched_inputs)
        return [{"sem_seg": each} for each in maps]

    def _check(self, sides):
        multiples = self._settings["multiples"]
        if multiples and any(side % multiple for side, multiple in zip(sides, multiples)):
            raise DeployError(
                f"an image of {' x '.join(map(str, sides))} does not fit the windows of the "
                f"model's pooling: pass images whose sides are multiples of "
                f"{' x '.join(map(str, multiples))}, the crop that it was trained on"
            )
