"""The target of a pruning: one kind, one fraction, levels on the way."""

import pytest

from blendprune.config.target import TARGETS, Target
from blendprune.errors import ConfigError


def test_the_one_target_that_is_set_has_its_unit():
    target = Target.only({"pruning_ratio": None, "max_flops": None, "max_params": 0.5})
    assert (target.kind, target.value, target.unit) == ("max_params", 0.5, "params")
    assert not target.is_ratio
    assert Target("pruning_ratio", 0.5).is_ratio
    assert [Target(kind, 0.5).unit for kind in TARGETS] == list(TARGETS.values())


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"max_flops": None, "max_params": None}, "got none"),
        ({"max_flops": 0.5, "max_params": 0.5}, "got max_flops, max_params"),
    ],
)
def test_no_target_and_several_are_refused(values, found):
    with pytest.raises(ConfigError, match=f"exactly one of max_flops, max_params .*{found}"):
        Target.only(values)


@pytest.mark.parametrize("value", [0, 1, -0.5, 1.5, True, "0.5", None, float("nan")])
def test_a_value_that_is_no_fraction_is_refused(value):
    with pytest.raises(ConfigError, match="max_flops must be a number between 0 and 1"):
        Target("max_flops", value)


def test_levels_come_in_the_order_in_which_a_model_passes_them():
    assert [x.value for x in Target("max_flops", 0.3).levels([0.5, 0.8, 0.5])] == [0.8, 0.5]
    assert [x.value for x in Target("pruning_ratio", 0.6).levels([0.5, 0.2])] == [0.2, 0.5]
    assert Target("max_flops", 0.3).levels([]) == []


@pytest.mark.parametrize(("kind", "level"), [("max_flops", 0.5), ("max_flops", 0.4)])
def test_a_level_behind_the_target_is_refused(kind, level):
    with pytest.raises(ConfigError, match=f"level {level:g} is not on the way to {kind} 0.5"):
        Target(kind, 0.5).levels([level])


def test_a_level_behind_a_ratio_is_refused():
    with pytest.raises(ConfigError, match="level 0.7 is not on the way to pruning_ratio 0.5"):
        Target("pruning_ratio", 0.5).levels([0.7])
