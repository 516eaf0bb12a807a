"""A detector made of an engine and a decoder."""

import contextlib
from typing import Any

import torch
from detectron2.data import transforms
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.structures import ImageList
from PIL import Image, ImageOps

from ...errors import DeployError, error_line
from .decoders import DECODERS
from .engines import TorchEngine


@contextlib.contextmanager
def _told(what):
    """Turn any exception into a :class:`DeployError`."""
    try:
        yield
    except DeployError:
        raise
    except Exception as error:
        raise DeployError(f"{what} ({error_line(error)}): export the model again") from error


def run_in_pytorch(found):
    """A detector that runs the cores of a model in PyTorch.

    It shows, without a file, that cores and decoder give what the model gives.

    Args:
        found (CoreSet): from ``blendprune.deployment.cores.cores_of``.

    Returns:
        Detector: takes and gives what the model does in inference.
    """
    engines = {name: TorchEngine(core) for name, core in found.cores.items()}
    return Detector(found.family, found.settings, engines)


class Detector:
    """Takes and gives what the model does in inference. Use it in one thread at a time.

    Args:
        family (str): name of the family of detectors.
        settings (dict): checked; see the family's file in ``blendprune.deployment.cores``.
        engines (dict[str, object]): name of each core → engine; see the folder ``engines``.

    Attributes:
        family (str), settings (dict): as given.
    """

    def __init__(self, family: str, settings: dict[str, Any], engines: dict[str, Any]) -> None:
        self.family, self.settings = family, settings
        self._engines = engines
        with _told("the settings of the file do not fit together"):
            self._decoder = DECODERS[family](settings)
        image = settings["image"]
        self._mean = torch.tensor(image["pixel_mean"]).view(-1, 1, 1)
        self._std = torch.tensor(image["pixel_std"]).view(-1, 1, 1)

    @torch.no_grad()
    def __call__(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect.

        Args:
            batched_inputs (list[dict]): per image ``"image"``, a tensor (C, H, W) in the units of
                the pixel mean; optionally ``"height"`` and ``"width"``, the size of the results in
                pixels. A model without a proposal generator also reads ``"proposals"``.

        Returns:
            list[dict]: per image what the model's class returns: ``"instances"`` (``Instances``),
            ``"sem_seg"`` (K, height, width), ``"panoptic_seg"``, ``"proposals"``; on the CPU.

        Raises:
            DeployError: an image is no such tensor, the engine fails, or the outputs of the file
                cannot be decoded.
        """
        if not batched_inputs:
            return []
        images = self.prepare(batched_inputs)
        with _told("what the file gives, or an input, does not fit the settings of the file"):
            raw = self._run("image", {"images": images.tensor})
            return self._decoder(raw, images, batched_inputs, self._run)

    def inputs_of(self, picture: Image.Image) -> dict[str, Any]:
        """Make the input of a picture, in the colours and the size that the model's config wants.

        Args:
            picture (PIL.Image.Image): of any mode and size.

        Returns:
            dict: ``"image"`` (C, H, W), float32, and the picture's ``"height"`` and ``"width"``:
            one of the inputs of :meth:`__call__`.

        Raises:
            DeployError: the file does not know them, because the model was built without a config.
        """
        wanted = self.settings["image"].get("picture")
        if wanted is None:
            raise DeployError(
                "the file does not say which colours and size its images have: pass tensors, "
                '[{"image": tensor}], or export a model that was built from a config'
            )
        array = convert_PIL_to_numpy(ImageOps.exif_transpose(picture), wanted["format"])
        height, width = array.shape[:2]
        resize = transforms.ResizeShortestEdge(wanted["min_size"], wanted["max_size"] or 2**31)
        array = resize.get_transform(array).apply_image(array)
        image = torch.as_tensor(array.astype("float32").transpose(2, 0, 1).copy())
        return {"image": image, "height": height, "width": width}

    def prepare(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise images, and pad them to one size.

        Args:
            batched_inputs (list[dict]): see :meth:`__call__`.

        Returns:
            ImageList: ``tensor`` is the input of the core of the image, (N, C, H, W).
        """
        image = self.settings["image"]
        normalised = [(self._checked(x) - self._mean) / self._std for x in batched_inputs]
        return ImageList.from_tensors(
            normalised,
            image["size_divisibility"],
            padding_constraints={"square_size": image["square_size"]},
        )

    @torch.no_grad()
    def run_cores(self, batched_inputs: list[dict[str, Any]]) -> None:
        """Run every core once, without decoding: the part of the work that pruning makes faster.

        Args:
            batched_inputs (list[dict]): see :meth:`__call__`. Heads run on as many regions per
                image as the settings allow, with zeros in them.

        Raises:
            DeployError: as of :meth:`__call__`.
        """
        images = self.prepare(batched_inputs)
        with _told("what the file gives, or an input, does not fit the settings of the file"):
            raw = self._run("image", {"images": images.tensor})
            for core, regions in getattr(self._decoder, "all_regions", lambda raw: ())(raw):
                self._run(core, {"regions": regions})

    def _run(self, core, tensors):
        arrays = {name: x.contiguous().numpy() for name, x in tensors.items()}
        found = self._engines[core].run(arrays)
        return {name: torch.from_numpy(x) for name, x in found.items()}

    def _checked(self, inputs):
        image = inputs.get("image") if isinstance(inputs, dict) else inputs
        channels = len(self._mean)
        if not isinstance(image, torch.Tensor) or image.dim() != 3 or len(image) != channels:
            shape = tuple(image.shape) if hasattr(image, "shape") else None
            raise DeployError(
                f"an image is {shape or type(image).__name__}: pass "
                f'[{{"image": tensor}}] with tensors of shape ({channels}, height, width)'
            )
        return image.cpu()
