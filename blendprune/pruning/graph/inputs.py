"""Inputs to trace and count a model with."""

import torch
import yaml
from detectron2.modeling.backbone import Backbone

from ...errors import ConfigError
from ...structure import config_of
from ...wrappers import unwrap

# More numbers than any image has that a detector is trained on: 6600 pixels a side.
_MAX_NUMBERS = 1 << 27
# Side of the image where the config of a model gives none: detectron2's default.
_SIDE = 800


def example_inputs_for(model, example_inputs=None, batches=None):
    """The given inputs, else those of the model's config, else the first image of the data.

    Args:
        model (nn.Module): a detectron2-style model.
        example_inputs (list[dict] | dict | None): detectron2's format.
        batches (list[list[dict]] | None): data.

    Returns:
        list[dict]: at least one.

    Raises:
        ConfigError: there is no input, or ``example_inputs`` is no list of dicts with images.
    """
    if example_inputs is not None:
        if isinstance(example_inputs, dict):
            example_inputs = [example_inputs]
        try:
            inputs = list(example_inputs)
        except TypeError:
            inputs = []
        if not inputs or not all(isinstance(x, dict) and "image" in x for x in inputs):
            raise ConfigError('example_inputs must be a list of dicts like {"image": tensor}')
        for each in inputs:
            check_image(each["image"], model, "example_inputs")
        return inputs
    inputs = config_inputs(model)
    if inputs is not None:
        return inputs
    if batches is not None:
        return [{"image": batches[0][0]["image"]}]
    raise ConfigError(
        "the model carries no config that says which images it takes: pass example_inputs="
        '[{"image": tensor}], or data='
    )


def check_image(image, model, source):
    """Refuse what is no image for a model.

    Args:
        image (object): as a mapper gives it.
        model (nn.Module): its ``pixel_mean``, if it has one, says how many channels it reads.
        source (str): name of the argument, for the message.

    Raises:
        ConfigError: it is no tensor (C, H, W) of that many channels, or holds NaN.
    """
    if not isinstance(image, torch.Tensor):
        raise ConfigError(
            f'{source} has a {type(image).__name__} as "image": pass a tensor (C, H, W), for '
            "example torch.as_tensor(array.transpose(2, 0, 1).copy())"
        )
    shape = tuple(image.shape)
    if len(shape) != 3 or not all(shape):
        raise ConfigError(
            f'{source} has an "image" of shape {shape}: pass one image (C, H, W) a dict'
        )
    mean = getattr(model, "pixel_mean", None)
    channels = mean.numel() if isinstance(mean, torch.Tensor) else shape[0]
    if shape[0] not in (1, channels):
        raise ConfigError(
            f'{source} has an "image" of shape {shape}, but {type(model).__name__} reads '
            f"{channels} channels: pass (C, H, W)"
        )
    if image.is_meta:
        raise ConfigError(
            f'{source} has an "image" on the meta device, which has no numbers: pass one of a CPU'
        )
    if image.is_inference():
        raise ConfigError(
            f'{source} has an "image" that was made inside torch.inference_mode, which autograd '
            "cannot use: read the images outside of it"
        )
    if image.is_floating_point() and not image.isfinite().all():
        raise ConfigError(f'{source} has an "image" with NaN or Inf: leave it out, or mend it')


def config_values(model):
    """The config that a model carries.

    Args:
        model (nn.Module): built under the overlay, or loaded by blendprune.

    Returns:
        dict: empty for a model without a config.
    """
    # The parser in C takes a tenth of the time.
    text = config_of(model)
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if text else {}


def config_inputs(model):
    """One random image of the size and channels of the config that the model carries.

    The side is INPUT.MIN_SIZE_TEST, at most INPUT.MAX_SIZE_TEST. Where MIN_SIZE_TEST is 0
    (detectron2 then does not resize), it is the largest of INPUT.MIN_SIZE_TRAIN, or 800 if that is
    0, too.

    Args:
        model (nn.Module): built under the overlay, or loaded by blendprune.

    Returns:
        list[dict] | None: ``[{"image": (C, S, S)}]``, values 0 to 255; None for a model without a
        config, or with one that has no INPUT or no MODEL.PIXEL_MEAN.

    Raises:
        ConfigError: a size is no number, or far too large.
    """
    config = config_values(model)
    sizes, mean = config.get("INPUT"), (config.get("MODEL") or {}).get("PIXEL_MEAN")
    if not isinstance(sizes, dict) or mean is None:
        return None
    side = _size(sizes, "MIN_SIZE_TEST") or _size(sizes, "MIN_SIZE_TRAIN") or _SIDE
    side = min(side, _size(sizes, "MAX_SIZE_TEST") or side)
    channels = len(mean) if isinstance(mean, (list, tuple)) else 1
    if channels * side**2 > _MAX_NUMBERS:
        raise ConfigError(
            f"the config asks for an image of {channels} x {side} x {side}, which no detector "
            "takes: set INPUT.MIN_SIZE_TEST and MODEL.PIXEL_MEAN"
        )
    # Whatever torch's default device and dtype are.
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.rand(channels, side, side, generator=generator, device="cpu", dtype=torch.float32)
    return [{"image": noise.mul_(255)}]


def _size(sizes, key):
    """The largest of the sizes of a key; 0 if it says nothing."""
    value = sizes.get(key, 0)
    values = value if isinstance(value, (list, tuple)) else [value]
    if not all(type(each) in (int, float) and abs(each) < 1e9 for each in values):
        raise ConfigError(f"INPUT.{key} is {value!r}: set it to a number of pixels")
    return int(max(0, *values))


def small_inputs(model, batched_inputs, side=256):
    """The inputs with smaller images, where the graph of the model does not depend on their size.

    Args:
        model (nn.Module): a detectron2-style model.
        batched_inputs (list[dict]): detectron2's format.
        side (int): most pixels a side.

    Returns:
        list[dict]: images cropped to at most that, for models with a backbone.
    """
    if not isinstance(getattr(unwrap(model), "backbone", None), Backbone):
        return batched_inputs
    return [{**x, "image": x["image"][:, :side, :side]} for x in batched_inputs]


def tiny_inputs(model, batched_inputs):
    """The inputs with images as small as a model usually takes, where their size does not matter.

    Args:
        model (nn.Module): a detectron2-style model.
        batched_inputs (list[dict]): detectron2's format.

    Returns:
        list[dict]: images cropped to 64 pixels a side, or to two steps of the coarsest features,
        for models with a backbone.
    """
    backbone = getattr(model, "backbone", None)
    side = max(64, 2 * (getattr(backbone, "size_divisibility", 0) or 0))
    return small_inputs(model, batched_inputs, side)


def labelled_batch(batches):
    """The images to see a training with: at most two, whole, with their labels.

    Args:
        batches (list[list[dict]] | None): data.

    Returns:
        list[dict] | None: None without data.
    """
    return batches[0][:2] if batches else None


def few_images(batches):
    """As many images of each batch as tracing looks at.

    Args:
        batches (list[list[dict]] | None): data.

    Returns:
        list[list[dict]]: empty without data.
    """
    return [labelled_batch([batch]) for batch in batches or ()]
