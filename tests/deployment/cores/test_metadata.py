"""Whatever a file says, it is read and decoded, or refused by a DeployError."""

import copy
import json

import pytest

from blendprune.deployment.cores import cores_of, pack_metadata, read_metadata, schema
from blendprune.deployment.runtime import Detector
from blendprune.errors import DeployError
from tests.helpers.slow import slow_but

STRANGE = (
    None,
    True,
    -1,
    0,
    3,
    2**70,
    -0.5,
    1e300,
    float("inf"),
    "",
    "x",
    "../x.onnx",
    [],
    [[]],
    {},
)


def places(value, path=()):
    """Paths to every value inside of a JSON value."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(min(len(value), 2)):
            yield from places(value[key], (*path, key))


def put(data, path, value):
    data = copy.deepcopy(data)
    if not path:
        return value
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return data


def without(data, path):
    data = copy.deepcopy(data)
    part = data
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    return data


@pytest.mark.parametrize("family", slow_but(["cascade", "blendmask"], "blendmask"))
def test_any_value_in_any_place_is_taken_or_refused(zoo_model, blendmask, family):
    model, _ = blendmask() if family == "blendmask" else zoo_model(family)
    found = cores_of(model)
    good = json.loads(pack_metadata(found, {k: f"{k}.onnx" for k in list(found.cores)[1:]}))
    refused = taken = 0
    for path in places(good):
        changed = [put(good, path, value) for value in STRANGE]
        changed += [without(good, path)] if path else []
        for each in changed:
            try:
                metadata = read_metadata(json.dumps(each))
                Detector(metadata.family, metadata.settings, {})
                taken += 1
            except DeployError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 10 * taken > 0


def test_a_field_that_may_be_null_may_be_missing_in_an_older_file():
    check = schema.record(a=schema.integer(), b=schema.optional(schema.integer()))
    assert check({"a": 1}, "x") == check({"a": 1, "b": None}, "x") == {"a": 1, "b": None}
    with pytest.raises(schema.Invalid, match="x lacks the field 'a'"):
        check({"b": 1}, "x")
    with pytest.raises(schema.Invalid, match="which is unknown"):
        check({"a": 1, "c": 1}, "x")
