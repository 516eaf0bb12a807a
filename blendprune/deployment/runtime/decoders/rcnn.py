"""detectron2's R-CNNs, Panoptic FPN included."""

from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.modeling.roi_heads.keypoint_head import keypoint_rcnn_inference
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference
from detectron2.structures import Boxes

from .proposals import Proposals
from .regions import deltas_of, pooler_of
from .results import panoptic, scaled

# Proposals per image of a model that is given them, to time it: detectron2's usual number.
_GIVEN_PROPOSALS = 1000


class RCNNDecoder:
    """Boxes, and masks and keypoints if the model has these heads.

    Args:
        settings (dict): of the family RCNN or PanopticFPN.
    """

    def __init__(self, settings):
        self._settings = settings
        self._proposals = Proposals(settings["rpn"]) if settings["rpn"] else None
        self._stages = [
            (each["core"], deltas_of(each["box_deltas"]), each["scores"])
            for each in settings["box"]["stages"]
        ]
        kinds = ("box", "mask", "keypoint")
        self._poolers = {k: pooler_of(settings[k]["pooler"]) for k in kinds if settings[k]}

    def __call__(self, raw, images, batched_inputs, run):
        return [{"instances": each} for each in self.detect(raw, images, batched_inputs, run)]

    def all_regions(self, raw):
        """As many regions as the heads may get, all zero.

        Args:
            raw (dict[str, Tensor]): what the core ``"image"`` gave.

        Yields:
            tuple[str, Tensor]: core, and its input (regions, C, height, width).
        """
        settings, rpn = self._settings, self._settings["rpn"]
        proposals = rpn["max_proposals"] if rpn else _GIVEN_PROPOSALS
        counts = [(core, "box", proposals) for core, *_ in self._stages]
        for kind in ("mask", "keypoint"):
            if settings[kind]:
                counts.append((kind, kind, settings["box"]["max_detections"]))
        for core, kind, count in counts:
            maps = raw[settings[kind]["levels"][0]]
            size = settings[kind]["pooler"]["output_size"]
            yield core, maps.new_zeros(len(maps) * count, maps.shape[1], *size)

    def detect(self, raw, images, batched_inputs, run):
        """Detections in the size of the results, one ``Instances`` per image."""
        if self._proposals is None:
            proposals = [x["proposals"] for x in batched_inputs]
        else:
            proposals = self._proposals(raw, images.image_sizes)
        found = self._boxes(run, raw, proposals)
        if self._settings["mask"]:
            mask_rcnn_inference(self._detected(run, raw, "mask", found)["masks"], found)
        if self._settings["keypoint"]:
            keypoint_rcnn_inference(self._detected(run, raw, "keypoint", found)["heatmaps"], found)
        return scaled(found, images, batched_inputs)

    def _boxes(self, run, raw, proposals):
        settings, total = self._settings["box"], 0
        boxes = [x.proposal_boxes for x in proposals]
        sizes, counts = [x.image_size for x in proposals], [len(x) for x in proposals]
        for i, (core, deltas, scores) in enumerate(self._stages):
            if i > 0:
                for each, size in zip(boxes, sizes):
                    each.clip(size)
            predicted = self._on_regions(run, raw, "box", core, boxes)
            found = deltas.apply_deltas(predicted["deltas"], Boxes.cat(boxes).tensor).split(counts)
            # Of a cascade, which has one box per region, they are the regions of the next stage.
            boxes = [Boxes(x.reshape(-1, 4)) for x in found]
            logits = predicted["scores"]
            total = total + (logits.sigmoid() if scores == "sigmoid" else logits.softmax(dim=-1))
        return fast_rcnn_inference(
            found,
            (total * (1.0 / len(self._stages))).split(counts),
            sizes,
            settings["score_threshold"],
            settings["nms_threshold"],
            settings["max_detections"],
        )[0]

    def _detected(self, run, raw, kind, found):
        return self._on_regions(run, raw, kind, kind, [x.pred_boxes for x in found])

    def _on_regions(self, run, raw, kind, core, boxes):
        maps = [raw[level] for level in self._settings[kind]["levels"]]
        regions = self._poolers[kind](maps, boxes)
        if len(regions) > 0:
            return run(core, {"regions": regions})
        # Engines may not take empty tensors.
        found = run(core, {"regions": regions.new_zeros(1, *regions.shape[1:])})
        return {name: x[:0] for name, x in found.items()}


class PanopticFPNDecoder(RCNNDecoder):
    """Instances, semantic logits, and both in one map.

    Args:
        settings (dict): of the family PanopticFPN.
    """

    def __call__(self, raw, images, batched_inputs, run):
        found = self.detect(raw, images, batched_inputs, run)
        return panoptic(found, raw, self._settings, images, batched_inputs)
