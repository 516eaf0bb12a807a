"""Calibration data as a list of batches: all of what has a length, the first images of the rest."""

import itertools
import logging

from ... import distributed
from ...checks import check_count
from ...errors import ConfigError
from ..graph.inputs import check_image, config_values

#: Images to take of data without a length, where the model carries no PRUNER.CALIBRATION_IMAGES.
CALIBRATION_IMAGES = 64
# More batches than any memory holds: samplers that never end give such lengths.
_MOST_BATCHES = 10_000
# Batches of a training may be too large for the memory that calibration has beside the features.
_MOST_IMAGES_AT_ONCE = 4

_log = logging.getLogger(__name__)


def as_batches(data, model):
    """Read calibration data into a list of batches.

    Data with a length (a list, a loader of a test set) is read whole. Data without one may never
    end, as detectron2's training loaders: PRUNER.CALIBRATION_IMAGES of the config that the model
    carries, or 64, are read, and no batch more. Worker processes end with the reading.

    Args:
        data (Iterable[list[dict] | dict]): batches in detectron2's format.
        model (nn.Module): may carry a config.

    Returns:
        tuple[list[list[dict]], list[str]]: batches; a sentence if reading stopped at the number.

    Raises:
        ConfigError: no images, or entries of another form.
    """
    length = _length(data)
    if length is not None:
        return first_batches(data, model, batches=length), []
    images = _calibration_images(model)
    batches = split_batches(first_batches(data, model, images))
    if sum(map(len, batches)) < distributed.share_of(images):
        return batches, []
    note = (
        f"data has no length and may not end: its first {images} images were read "
        "(PRUNER.CALIBRATION_IMAGES); pass a list of batches to use others"
    )
    _log.info(note)
    return batches, [note]


def first_batches(data, model, images=None, batches=None):
    """Read the first batches of a fresh pass over data, and nothing behind them.

    Processes that prune together read a share each, and all keep as many images as the one that
    has the fewest.

    Args:
        data (Iterable[list[dict] | dict]): in detectron2's format.
        model (nn.Module): that they are for.
        images (int | None): most images, of all processes; the last batch is cut short. None: all.
        batches (int | None): most batches. None: all.

    Returns:
        list[list[dict]]: batches.

    Raises:
        ConfigError: no images, or entries of another form.
    """
    if isinstance(data, (str, bytes, dict)):
        raise _no_data(data)
    try:
        iterator = iter(data)
    except TypeError:
        raise _no_data(data) from None
    most = None if images is None else distributed.share_of(images)
    checked = (_as_batch(batch, model) for batch in itertools.islice(iterator, batches))
    found = _first_images(checked, most)
    if not found:
        raise ConfigError("data holds no images: pass batches as detectron2's loaders give them")
    return _first_images(found, min(distributed.gathered(sum(map(len, found)))))


def _first_images(batches, most):
    """Batches up to a number of images; nothing behind them is read."""
    found, left = [], most
    for batch in batches:
        found.append(batch[:left])
        if left is not None:
            left -= len(found[-1])
            if not left:
                break
    return found


def split_batches(batches):
    """Split batches of a training into batches of few images.

    Args:
        batches (list[list[dict]]): of any size.

    Returns:
        list[list[dict]]: the same images in the same order.
    """
    most = _MOST_IMAGES_AT_ONCE
    return [batch[i : i + most] for batch in batches for i in range(0, len(batch), most)]


def _length(data):
    try:
        length = len(data)
    except Exception:  # of a loader around a sampler without a length: TypeError, AttributeError, …
        return None
    return length if length <= _MOST_BATCHES else None


def _calibration_images(model):
    node = config_values(model).get("PRUNER") or {}
    images = node.get("CALIBRATION_IMAGES", CALIBRATION_IMAGES)
    return check_count("PRUNER.CALIBRATION_IMAGES", images)


def _as_batch(batch, model):
    try:
        batch = [batch] if isinstance(batch, dict) else list(batch)
    except TypeError:
        raise _strange(f"a {type(batch).__name__}") from None
    if not batch:
        raise ConfigError("data holds no images: pass batches as detectron2's loaders give them")
    for each in batch:
        if not isinstance(each, dict):
            raise _strange(f"a {type(each).__name__}")
        if "image" not in each:
            raise _strange(f"a dict of {', '.join(map(repr, each)) or 'nothing'}")
        check_image(each["image"], model, "data")
    return batch


def _no_data(data):
    return ConfigError(
        f"data is a {type(data).__name__}: pass batches, or a loader as detectron2 builds them"
    )


def _strange(found):
    return ConfigError(
        'data must give lists of dicts with "image", as detectron2\'s loaders do, but gave '
        f"{found}: pass a generator that unpacks them"
    )
