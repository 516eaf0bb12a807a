"""The file of a measured sensitivity, which may come from anyone."""

import json
import math
import os

from ...errors import ConfigError, first_line
from .sensitivity import FORMAT, GroupSensitivity, Sensitivity


def check_output(path):
    """Refuse a path that no measurement can be written to.

    Args:
        path (str | None): of the file; addresses of other machines pass.

    Raises:
        ConfigError: it is a folder, lies inside a file, or is no text.
    """
    if path is None or (isinstance(path, str) and "://" in path):
        return
    wrong = "not a str" if not isinstance(path, str) else "a folder" if os.path.isdir(path) else ""
    folder = "" if wrong else os.path.abspath(path)
    while not wrong and not os.path.isdir(folder := os.path.dirname(folder)):
        wrong = f"below the file {folder!r}" if os.path.exists(folder) else ""
    if wrong:
        raise ConfigError(
            f"cannot write a sensitivity to {path!r}, which is {wrong}: name a file such as "
            "'sensitivity.json'"
        )


def load_sensitivity(path):
    """Read what :func:`blendprune.measure_sensitivity` has written.

    Args:
        path (str): any address PathManager knows.

    Returns:
        Sensitivity: not yet compared with a model.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    from detectron2.utils.file_io import PathManager

    try:
        with PathManager.open(path, "r") as file:
            values = json.load(file)
        if {key: values.pop(key) for key in FORMAT} != FORMAT:
            raise ValueError("another version")
        groups = {root: GroupSensitivity(**group) for root, group in values.pop("groups").items()}
        found = Sensitivity(**values, groups=groups)
        check_values(found)
        return found
    except Exception as error:  # each PathManager handler raises other errors
        raise ConfigError(
            f"cannot read {path!r} as a measured sensitivity ({first_line(error)}): name the file "
            "that `blendprune sensitivity` writes"
        ) from None


def check_values(found):
    """Refuse what no measurement has: a file may come from anyone.

    Args:
        found (Sensitivity): with values of any types.

    Raises:
        ValueError: says which value.
    """
    ratios, loss = found.ratios, found.loss
    _require(isinstance(found.weights, str), "its weights are no digest")
    _require(isinstance(found.importance, str), "its importance is no name")
    _require(found.importance.isprintable(), "its importance is no name")
    _require(_are(ratios, float) and ratios, "its ratios are no numbers")
    ascending = sorted(set(ratios)) == ratios
    _require(ascending and 0 < ratios[0] <= ratios[-1] < 1, "its ratios do not ascend from 0 to 1")
    _require(type(found.images) is int and found.images > 0, "its images are no number")
    _require(_are([loss], int, float) and math.isfinite(loss), "its loss is not finite")
    for root, group in found.groups.items():
        _require(root.isprintable(), "a group in it has no name")
        width, masked = group.width, group.masked
        _require(type(width) is int and _are(masked, int), f"{root} has no widths")
        fits = sorted(masked) == masked and masked[:1] > [0] and masked[-1] < width
        _require(fits, f"{root} of {width} channels does not have the channels that were masked")
        _require(_are(group.loss, int, float), f"{root} has no losses")
        rises = [math.isfinite(each - loss) for each in group.loss]
        _require(all(rises), f"a loss of {root} is not finite")
        same = len(masked) == len(rises) == len(ratios)
        _require(same, f"{root} does not have one loss for each ratio")


def _are(values, *kinds):
    # Not isinstance: True is an int.
    return isinstance(values, list) and all(type(each) in kinds for each in values)


def _require(fine, wrong):
    if not fine:
        raise ValueError(wrong)
