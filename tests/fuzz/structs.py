"""Structures that are wrong somewhere."""

import copy
import math

import torch
from hypothesis import strategies as st

import blendprune
from tests.helpers.net import Net


def _deep(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def strange():
    """Widths that are none, and values where none belong; new ones on each call."""
    return (
        -1,
        0,
        2**31,
        2**31 - 1,
        2**62,
        2**80,
        10**5000,
        True,
        False,
        None,
        1.0,
        4.5,
        math.nan,
        math.inf,
        "",
        "4",
        "os.system('true')",
        "\x1b[31m\n",
        "a" * 10_000,
        [],
        [4],
        [1 << 30, 3, 3, 3],
        [0, 3, 3, 3],
        [1] * 50,
        {},
        {"p3": 4},
        {3: 3},
        (4, 3),
        _deep(50),
        _deep(200),
    )


_NAMES = ("", "conv", "norm", "fc", "tied", "up", "__class__", "forward", "conv.weight", "ü", "a b")
_KEYS = ("in_channels", "out_channels", "groups", "weight", "bias", "num_features", "in_features")
_KEYS += ("out_features", "_out_feature_channels", "normalized_shape", "num_heads", "__dict__")

_leaves = st.one_of(
    # hypothesis prints what it samples from, and Python does not print all of these.
    st.integers(0, len(strange()) - 1).map(lambda number: strange()[number]),
    st.integers(),
    st.integers(1, 16),
    st.floats(),
    st.text(max_size=20),
    st.builds(torch.zeros, st.integers(0, 3)),
)
values = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from((*_NAMES, *_KEYS, 3)), inner, max_size=4),
    ),
    max_leaves=8,
)


def _places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list):
        for number, _ in enumerate(value):
            yield from _places(value[number], (*path, number))


@st.composite
def changed(draw, good):
    """A good value with one to three changes: put something in a place, take it out, add to it."""
    found = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(_places(found))))
        if not path:
            continue
        part = found
        for key in path[:-1]:
            part = part[key]
        what = draw(st.sampled_from(("put", "put", "near", "take", "add")))
        if what == "take":
            del part[path[-1]]
        elif what == "near" and type(part[path[-1]]) is int:
            part[path[-1]] += draw(st.integers(-3, 3))
        elif what == "add" and isinstance(part, dict):
            part[draw(st.sampled_from((*_NAMES, *_KEYS)))] = draw(values)
        else:
            part[path[-1]] = draw(values)
    return found


def structs():
    """A strategy of structures: of a small model with changes, or of anything."""
    good = blendprune.structure_of(Net(4))
    return st.one_of(changed(good), changed(good), changed(good), values)


def checkpoints():
    """A strategy of whole checkpoints of a small model, changed anywhere."""
    net = Net(4)
    good = {"model": dict(net.state_dict()), "struct": blendprune.structure_of(net), "iteration": 3}
    return changed(good)
