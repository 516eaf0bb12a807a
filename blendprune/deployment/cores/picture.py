"""How a picture becomes the image of a model: what its config says of colours and size."""

from . import schema

# What detectron2 converts pictures to.
_FORMATS = ("BGR", "RGB", "L", "YUV-BT.601")
_SIDE = schema.integer(0, 65536)

PICTURE = schema.record(
    format=schema.one_of(*_FORMATS),
    # 0: the picture keeps its size.
    min_size=_SIDE,
    max_size=_SIDE,
)


def picture_settings(model):
    """Colours and size of the images that a model is used on.

    Args:
        model (nn.Module): built from a config or not.

    Returns:
        dict | None: see ``PICTURE``: INPUT.FORMAT, INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST of
        the config that the model carries; None if there is none, or it wants other pictures.
    """
    # Imported here: an exported file runs without Torch-Pruning.
    from ...pruning.graph.inputs import config_values

    sizes = config_values(model).get("INPUT")
    keys = {"format": "FORMAT", "min_size": "MIN_SIZE_TEST", "max_size": "MAX_SIZE_TEST"}
    try:
        return PICTURE({key: sizes[name] for key, name in keys.items()}, "INPUT")
    except (schema.Invalid, KeyError, TypeError):
        return None
