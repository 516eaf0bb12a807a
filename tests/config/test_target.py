"""The target of a pruning: one kind, one number, levels on the way."""

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


EITHER = "must be a fraction below 1, or from 1 on a number of milliseconds, got"


def test_a_latency_from_1_on_is_absolute():
    assert Target("max_latency", 35).is_absolute and Target("max_latency", 1).is_absolute
    assert not Target("max_latency", 0.99).is_absolute
    assert not Target("max_flops", 0.5).is_absolute


def test_an_absolute_number_is_a_fraction_of_the_given_models_cost():
    target = Target("max_latency", 35)
    found = target.as_fraction(50.0)
    assert found.value == 0.7 and not found.is_absolute
    assert str(target) == str(found) == "max_latency 35 ms"
    assert found.as_fraction(1.0) is found
    fraction = Target("max_latency", 0.5)
    assert fraction.as_fraction(50.0) is fraction


@pytest.mark.parametrize("dense", [35.0, 20.0])
def test_an_absolute_number_that_the_given_model_meets_is_refused(dense):
    words = f"max_latency 35 ms is met already: the given model has {dense} ms; ask for fewer"
    with pytest.raises(ConfigError, match=words):
        Target("max_latency", 35).as_fraction(dense)


def test_costs_have_the_words_of_the_target_and_are_rounded_up():
    assert Target("max_flops", 0.5).words(0.41231) == "0.413 of the dense model's flops"
    assert Target("max_flops", 0.5).words(0.0123456, 5) == "0.01235 of the dense model's flops"
    found = Target("max_latency", 35).as_fraction(1000.0)
    assert [found.words(x) for x in (0.5123, 0.05121, 0.0001)] == ["513 ms", "51.3 ms", "0.100 ms"]
    assert str(Target("max_latency", 0.25)) == "max_latency 0.25"


@pytest.mark.parametrize("value", [0, -5, True, "35", None, float("nan"), float("inf")])
def test_a_latency_that_is_no_number_is_refused(value):
    with pytest.raises(ConfigError, match=f"max_latency {EITHER} .*: write 0.5 for half, 35 for"):
        Target("max_latency", value)


def test_levels_of_an_absolute_target_are_absolute():
    assert [x.value for x in Target("max_latency", 35).levels([40, 60])] == [60, 40]
    assert [x.value for x in Target("max_latency", 0.5).levels([0.7])] == [0.7]


@pytest.mark.parametrize(
    ("value", "level", "words"),
    [
        (35, 0.7, "level 0.7 is a fraction, but max_latency 35 ms is an absolute number: give"),
        (0.5, 40, "level 40 is an absolute number, but max_latency 0.5 is a fraction: give levels"),
        (35, 35, "level 35 is not on the way to max_latency 35: the target is the furthest"),
        (35, 20, "level 20 is not on the way to max_latency 35: the target is the furthest"),
        (35, "40", f"a level {EITHER} '40'"),
    ],
)
def test_levels_of_another_sort_or_behind_an_absolute_target_are_refused(value, level, words):
    with pytest.raises(ConfigError, match=words):
        Target("max_latency", value).levels([level])
