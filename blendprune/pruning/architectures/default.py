"""The default architecture: the whole forward is one stage. Other families extend it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from torch import Tensor, nn


@dataclass(frozen=True)
class Stage:
    """A part of a forward that does not depend on what the model detects.

    Attributes:
        run (Callable): called with a number of regions or instances per image. A stage of whole
            images ignores it. It may return the raw outputs of the stage, a list of tensors.
        count (int): most regions or instances per image that inference keeps; 1 for whole images.
    """

    run: Callable[[int], object]
    count: int = 1


class Architecture:
    """How a family of detectors runs, and which of its layers predict something.

    This class is the default for every model that no registered class matches. Subclass it and
    override what differs; see :func:`blendprune.register_architecture`.

    Args:
        model (nn.Module): a model that :meth:`matches`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether ``model`` belongs to this family.

        Args:
            model (nn.Module): any model.

        Returns:
            bool: of the registered classes that match, the last one counts.
        """
        return True

    def stages(
        self, batched_inputs: list[dict[str, Any]], training_branches: bool = False
    ) -> list[Stage]:
        """The forward in parts whose cost does not depend on what is detected.

        What a detector computes after its first stage depends on how many objects it finds; with
        random weights it may find none, and a branch that never runs is not in the graph. Stages
        therefore run on given regions or instances.

        Args:
            batched_inputs (list[dict]): detectron2's format; only ``"image"`` (C, H, W) is read.
            training_branches (bool): also run auxiliary heads that inference leaves out, where the
                stages can reach them without labels.

        Returns:
            list[Stage]: to be run in order, in eval mode.
        """

        def image(_):
            self.model(batched_inputs)

        return [Stage(image)]

    def prediction_heads(self) -> list[nn.Module]:
        """Parts whose last layers are prediction layers although other layers read them.

        A layer whose output reaches no other layer is a prediction layer anyway.

        Returns:
            list[nn.Module]: parts of the model.
        """
        return []

    def dummy_labels(self, image: Tensor) -> dict[str, Any]:
        """Labels for one training forward, which shows the branches that only training runs.

        Args:
            image (Tensor): (C, H, W).

        Returns:
            dict: detectron2's format: the image with one object that fills it: ``"instances"``
            with boxes, classes, masks and keypoints (COCO's 17), ``"proposals"``, ``"sem_seg"``,
            ``"height"`` and ``"width"``.
        """
        height, width = size = tuple(image.shape[1:])
        box = torch.tensor([[0.0, 0, width, height]])
        instances = Instances(size)
        instances.gt_boxes = Boxes(box)
        instances.gt_classes = torch.zeros(1, dtype=torch.long)
        instances.gt_masks = BitMasks(torch.ones(1, *size, dtype=torch.bool))
        points = torch.tensor([width / 2, height / 2, 2.0]).expand(1, 17, 3)
        instances.gt_keypoints = Keypoints(points.clone())
        proposals = Instances(size)
        proposals.proposal_boxes = Boxes(box.clone())
        proposals.objectness_logits = torch.zeros(1)
        return {
            "image": image,
            "height": height,
            "width": width,
            "instances": instances,
            "proposals": proposals,
            "sem_seg": torch.zeros(size, dtype=torch.long),
        }

    def find_regions(self, batched_inputs: list[dict[str, Any]]) -> object | None:
        """What the model detects, so that another model can run on the same regions.

        Args:
            batched_inputs (list[dict]): detectron2's format.

        Returns:
            object | None: for :meth:`run_on_regions`; None for a family whose layers all see whole
            images.
        """
        return None

    def run_on_regions(self, batched_inputs: list[dict[str, Any]], regions: Any = None) -> None:
        """Run the layers that see whole images, and those that see regions on given ones.

        Heads that run per instance and have no regions do not run.

        Args:
            batched_inputs (list[dict]): detectron2's format.
            regions (object): from :meth:`find_regions` or :meth:`pooled_regions`.
        """
        self.stages(batched_inputs, training_branches=True)[0].run(1)

    def region_poolers(self) -> dict[str, nn.Module]:
        """Modules that pool features of regions.

        Returns:
            dict[str, nn.Module]: name → module, called as ``module(features, boxes)``.
        """
        return {}

    def pooled_regions(self, boxes: dict[str, list[Boxes]]) -> object | None:
        """Regions for :meth:`run_on_regions` from what the poolers saw in a training forward.

        Args:
            boxes (dict[str, list[Boxes]]): name of each pooler that ran → boxes of each image.

        Returns:
            object | None: None where there are no regions.
        """
        return None

    def depends_on_earlier_predictions(self, name: str) -> bool:
        """Whether a layer sees regions that an earlier prediction of the model has moved.

        Args:
            name (str): of a prediction layer.

        Returns:
            bool: True for the later stages of a cascade.
        """
        return False
