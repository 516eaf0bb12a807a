"""Layers named by modules, names and patterns."""

import pytest
from torch import nn

from blendprune.errors import ConfigError
from blendprune.pruning.graph.layer_patterns import LayerRatio, resolve_layers, resolve_ratios


@pytest.fixture
def net():
    return nn.ModuleDict(
        {"head": nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), "stem": nn.Conv2d(1, 1, 1)}
    )


def named(net, found):
    names = {module: name for name, module in net.named_modules()}
    return {names[module]: what for module, what in found.items()}


def test_a_name_stands_for_its_module(net):
    assert named(net, resolve_layers(net, ["stem"])) == {"stem": "stem"}
    assert named(net, resolve_layers(net, "stem")) == {"stem": "stem"}
    assert resolve_layers(net, ()) == {}


def test_a_container_stands_for_everything_in_it(net):
    inside = {"head": "head", "head.0": "head", "head.1": "head"}
    assert named(net, resolve_layers(net, ["head"])) == inside
    assert named(net, resolve_layers(net, net["head"])) == inside
    assert named(net, resolve_layers(net, [net["head"]])) == inside


def test_a_pattern_stands_for_all_names_that_fit_and_the_last_entry_counts(net):
    found = named(net, resolve_layers(net, ["*e*", "head.0"]))
    assert found == {"head": "*e*", "head.0": "head.0", "head.1": "*e*", "stem": "*e*"}


def test_a_pattern_that_fits_everything_does_not_name_the_model(net):
    assert "" not in named(net, resolve_layers(net, ["*"]))


def test_case_matters(net):
    with pytest.raises(ConfigError, match="ignored_layers has 'Stem', which is no module of Modul"):
        resolve_layers(net, ["Stem"])


@pytest.mark.parametrize("layer, shown", [(nn.ReLU(), "ReLU"), (3, "3"), (None, "None")])
def test_what_is_no_module_of_the_model_is_refused(net, layer, shown):
    with pytest.raises(ConfigError, match=f"given has {shown}, which is no module of ModuleDict"):
        resolve_layers(net, ["stem", layer], "given")


def test_ratios_have_the_place_of_their_entry(net):
    expected = {"head": LayerRatio(0, "head", 0.5), "head.1": LayerRatio(0, "head", 0.5)}
    expected["head.0"] = LayerRatio(1, "head.0", 0.0)
    for given in ({"head": 0.5, "head.0": 0}, [("head", 0.5), ["head.0", 0]]):
        assert named(net, resolve_ratios(net, given)) == expected
    assert resolve_ratios(net, None) == {}
    assert named(net, resolve_ratios(net, {net["stem"]: 0.25})) == {
        "stem": LayerRatio(0, "stem", 0.25)
    }


@pytest.mark.parametrize(
    "given, words",
    [
        (["stem"], r"has 'stem': write \[pattern, ratio\]"),
        ([("stem", 0.5, 1)], r"write \[pattern, ratio\]"),
        ({"stem": 1}, "below 1 for 'stem', got 1: "),
        ({"stem": -0.1}, "below 1 for 'stem', got -0.1"),
        ({"stem": True}, "got True"),
        ({"stem": "0.5"}, "got '0.5'"),
        ({"none": 0.5}, "pruning_ratio_dict has 'none', which is no module"),
    ],
)
def test_entries_that_cannot_hold_are_refused(net, given, words):
    with pytest.raises(ConfigError, match=words):
        resolve_ratios(net, given)
