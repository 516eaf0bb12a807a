"""FCOS of AdelaiDet or our own (arXiv:1904.01355)."""

from ....modeling.fcos_detections import fcos_detections
from ....modeling.fcos_targets import level_locations
from .results import scaled


def decode_fcos(raw, settings, image_sizes, top_feats=False):
    """Detections of FCOS.

    Args:
        raw (dict[str, Tensor]): outputs of the core of the image.
        settings (dict): of FCOS.
        image_sizes (list[tuple[int, int]]): height and width per image.
        top_feats (bool): whether the core also gives top features.

    Returns:
        list[Instances]: see ``fcos_detections``.
    """

    def levels(kind):
        return [raw[f"{kind}_{level}"] for level in settings["levels"]]

    logits, strides = levels("logits"), settings["strides"]
    locations = [
        level_locations(x.shape[2], x.shape[3], stride, x.device)
        for x, stride in zip(logits, strides)
    ]
    return fcos_detections(
        logits,
        levels("deltas"),
        levels("ctrness"),
        locations,
        image_sizes,
        levels("top_feats") if top_feats else (),
        strides=strides,
        score_threshold=settings["score_threshold"],
        max_candidates=settings["max_candidates"],
        nms_threshold=settings["nms_threshold"],
        max_detections=settings["max_detections"],
        threshold_with_ctrness=settings["threshold_with_ctrness"],
    )


class FCOSDecoder:
    """Boxes from every location.

    Args:
        settings (dict): of the family FCOS.
    """

    def __init__(self, settings):
        self._settings = settings

    def __call__(self, raw, images, batched_inputs, _):
        found = decode_fcos(raw, self._settings["fcos"], images.image_sizes)
        key = self._settings["result"]
        return [{key: each} for each in scaled(found, images, batched_inputs)]
