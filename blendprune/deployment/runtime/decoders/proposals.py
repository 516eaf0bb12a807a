"""Proposals of detectron2's RPN."""

from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals

from .regions import Anchors, deltas_of
from .results import scaled


class Proposals:
    """Decodes the raw outputs of an RPN.

    Args:
        settings (dict): of the RPN.
    """

    def __init__(self, settings):
        self._settings = settings
        self._anchors, self._deltas = (
            Anchors(settings["anchors"]),
            deltas_of(settings["box_deltas"]),
        )

    def __call__(self, raw, image_sizes):
        """Decode.

        Args:
            raw (dict[str, Tensor]): outputs of the core of the image.
            image_sizes (list[tuple[int, int]]): height and width per image.

        Returns:
            list[Instances]: per image ``proposal_boxes`` and ``objectness_logits``.
        """
        settings = self._settings
        objectness, deltas = (
            [raw[f"{kind}_{level}"] for level in settings["levels"]]
            for kind in ("objectness", "deltas")
        )
        boxes = [
            self._decoded(x, anchors.tensor)
            for x, anchors in zip(deltas, self._anchors(objectness))
        ]
        return find_top_rpn_proposals(
            boxes,
            [x.permute(0, 2, 3, 1).flatten(1) for x in objectness],
            image_sizes,
            settings["nms_threshold"],
            settings["max_candidates"],
            settings["max_proposals"],
            settings["min_size"],
            False,
        )

    def _decoded(self, deltas, anchors):
        # (N, A * 4, H, W) to (N, H * W * A, 4).
        count, _, height, width = deltas.shape
        deltas = deltas.view(count, -1, 4, height, width).permute(0, 3, 4, 1, 2).reshape(-1, 4)
        return self._deltas.apply_deltas(deltas, anchors.repeat(count, 1)).view(count, -1, 4)


class ProposalNetworkDecoder:
    """Proposals alone.

    Args:
        settings (dict): of the family ProposalNetwork.
    """

    def __init__(self, settings):
        self._proposals = Proposals(settings["rpn"])

    def __call__(self, raw, images, batched_inputs, _):
        found = self._proposals(raw, images.image_sizes)
        return [{"proposals": each} for each in scaled(found, images, batched_inputs)]
