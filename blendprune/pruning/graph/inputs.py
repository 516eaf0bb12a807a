"""Inputs to trace and count a model with."""

import torch
import yaml
from detectron2.modeling.backbone import Backbone

from ...errors import ConfigError
from ...structure import config_of


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
        inputs = list(example_inputs)
        if not inputs or not all(isinstance(x, dict) and "image" in x for x in inputs):
            raise ConfigError('example_inputs must be a list of dicts like {"image": tensor}')
        return inputs
    inputs = config_inputs(model)
    if inputs is not None:
        return inputs
    if batches is not None:
        return [{"image": batches[0][0]["image"]}]
    raise ConfigError('pass example_inputs=[{"image": tensor}]: the model carries no config')


def config_inputs(model):
    """One random image of the size and channels of the config that the model carries.

    Args:
        model (nn.Module): built under the overlay, or loaded by blendprune.

    Returns:
        list[dict] | None: ``[{"image": (C, S, S)}]``, values 0 to 255, S = INPUT.MIN_SIZE_TEST;
        None for a model without a config.
    """
    text = config_of(model)
    if not text:
        return None
    # The parser in C takes a tenth of the time.
    config = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    side = config["INPUT"]["MIN_SIZE_TEST"]
    channels = len(config["MODEL"]["PIXEL_MEAN"])
    noise = torch.rand(channels, side, side, generator=torch.Generator().manual_seed(0))
    return [{"image": 255 * noise}]


def small_inputs(model, batched_inputs):
    """The inputs with smaller images, where the graph of the model does not depend on their size.

    Args:
        model (nn.Module): a detectron2-style model.
        batched_inputs (list[dict]): detectron2's format.

    Returns:
        list[dict]: images cropped to at most 256 pixels a side, for models with a backbone.
    """
    if not isinstance(getattr(model, "backbone", None), Backbone):
        return batched_inputs
    return [{**x, "image": x["image"][:, :256, :256]} for x in batched_inputs]
