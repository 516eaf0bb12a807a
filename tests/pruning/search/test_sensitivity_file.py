"""The file of a measured sensitivity: what is no measurement is refused in one sentence."""

import json

import pytest

from blendprune.errors import ConfigError
from blendprune.pruning import load_sensitivity
from tests.helpers.sentences import assert_sentence


@pytest.mark.parametrize("text", ["", "[]", '{"format": "something", "version": 1}'])
def test_a_file_of_another_kind_is_refused(tmp_path, text):
    path = tmp_path / "sensitivity.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="as a measured sensitivity"):
        load_sensitivity(str(path))
    with pytest.raises(ConfigError, match="as a measured sensitivity"):
        load_sensitivity(str(tmp_path / "none.json"))


WRONG = {
    "weights": [3, None],
    "importance": [3, "\x1b[31m"],
    "ratios": [[], ["0.5"], [0.5, 0.1], [0, 0.5], [0.5, 1.5], 0.5],
    "images": [0, True, "4"],
    "loss": ["1", None, float("nan"), 10**400],
    "width": [4, 8.0, "8", None],
    "masked": [[], [1], [0, 4], [4, 1], [1, 8], [1.0, 4.0], None],
    "curve": [[], [1.0], [1.0, float("inf")], [1.0, "2"], 3],
    "root": ["\x1b[31m"],
}


@pytest.mark.parametrize("where, value", [(key, each) for key in WRONG for each in WRONG[key]])
def test_values_that_no_measurement_has_are_refused(tmp_path, where, value):
    curve = {"width": 8, "masked": [1, 4], "loss": [2.0, 3.0]}
    good = {"weights": "0", "importance": "obs", "ratios": [0.1, 0.5], "images": 4, "loss": 1.0}
    file = {"format": "blendprune.sensitivity", "version": 1, **good, "groups": {"conv": curve}}
    path = tmp_path / "sensitivity.json"
    path.write_text(json.dumps(file))
    assert load_sensitivity(str(path)).groups["conv"].width == 8
    if where == "root":
        file["groups"] = {value: curve}
    elif where in ("width", "masked", "curve"):
        curve[where.replace("curve", "loss")] = value
    else:
        file[where] = value
    path.write_text(json.dumps(file))
    with pytest.raises(ConfigError) as error:
        load_sensitivity(str(path))
    assert str(error.value).isprintable()
    assert_sentence(
        str(error.value),
        "cannot read '…sensitivity.json' as a measured sensitivity (…): name the file that "
        "`blendprune sensitivity` writes",
    )
