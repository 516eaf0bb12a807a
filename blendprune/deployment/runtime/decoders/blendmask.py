"""BlendMask (arXiv:2001.00309): FCOS's boxes, and masks blended from bases."""

from ....modeling.blender import add_masks
from .fcos import decode_fcos
from .regions import pooler_of
from .results import panoptic, scaled


class BlendMaskDecoder:
    """Boxes with masks, and the panoptic map if the model has that branch.

    Args:
        settings (dict): of the family BlendMask.
    """

    def __init__(self, settings):
        self._settings = settings
        self._pooler = pooler_of(settings["pooler"])

    def __call__(self, raw, images, batched_inputs, _):
        settings = self._settings
        found = decode_fcos(raw, settings["fcos"], images.image_sizes, top_feats=True)
        attention = settings["attention_size"], settings["interpolation"]
        found = scaled(
            add_masks([raw["bases"]], found, self._pooler, *attention), images, batched_inputs
        )
        if settings["sem_seg"] is None:
            return [{"instances": each} for each in found]
        return panoptic(found, raw, settings, images, batched_inputs)
