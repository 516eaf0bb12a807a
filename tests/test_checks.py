"""Checks of single values: what passes, and the sentence about what does not."""

import pytest

from blendprune.checks import check_count, similar
from blendprune.errors import ConfigError


def test_whole_numbers_from_one_pass():
    assert [check_count("n", value) for value in (1, 64)] == [1, 64]


@pytest.mark.parametrize("bad", [0, -1, 1.0, True, "8", None])
def test_other_numbers_are_refused_by_name(bad):
    with pytest.raises(ConfigError, match=f"n must be a whole number of at least 1, got {bad!r}"):
        check_count("n", bad)


def test_an_unknown_name_gets_those_like_it():
    assert similar("tailor", ["obs", "taylor"]) == " (did you mean 'taylor'?)"
    assert similar("conv1", ["conv2", "conv3", "x"]) == " (did you mean 'conv3' or 'conv2'?)"
    assert similar("qqq", ["obs", "taylor"]) == ""
