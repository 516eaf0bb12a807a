"""Options of a pruning: what they may be, and what is made of them."""

import pytest
from torch import nn

from blendprune.config.target import Target
from blendprune.errors import ConfigError
from blendprune.pruning.search.options import PruningOptions, check_rounds


def test_defaults_rank_all_groups_together_and_reconstruct():
    options = PruningOptions()
    assert (options.importance, options.normalize, options.reconstruct) == ("obs", None, True)
    assert (options.global_pruning, options.isomorphic) == (True, False)
    assert (options.round_to, options.max_pruning_ratio) == ("auto", 0.9)
    assert (options.ignored_layers, options.pruning_ratio_dict) == ((), None)


@pytest.mark.parametrize("given, made", [(None, "auto"), ("auto", "auto"), (0, 1), (1, 1), (8, 8)])
def test_widths_may_be_rounded(given, made):
    options = PruningOptions(round_to=given, device="cuda")
    assert options.round_to == made
    assert options.rounding.multiple == (16 if made == "auto" else made)


def test_finer_options_differ_in_nothing_but_the_steps():
    options = PruningOptions(device="cuda", isomorphic=True)
    finer = options.and_finer()
    assert [each.rounding.multiple for each in finer] == [16, 8, 4, 2, 1]
    assert all(each.isomorphic and each.rounding.auto for each in finer)
    assert [each.round_to.multiple for each in PruningOptions(round_to=8).and_finer()] == [8]


@pytest.mark.parametrize("bad", [-1, 1.5, True, "8"])
def test_a_multiple_is_a_whole_number(bad):
    with pytest.raises(ConfigError, match=f"round_to must be a whole .*, got {bad!r}"):
        PruningOptions(round_to=bad)


@pytest.mark.parametrize("bad", [0, 1, 1.5, "half", None])
def test_a_limit_is_between_nothing_and_all(bad):
    with pytest.raises(ConfigError, match=f"max_pruning_ratio must be .*, got {bad!r}"):
        PruningOptions(max_pruning_ratio=bad)


@pytest.mark.parametrize("how", [{"importance": "L1"}, {"normalize": "latency"}])
def test_names_that_are_not_known_are_refused(how):
    with pytest.raises(ConfigError, match="known are"):
        PruningOptions(**how)


@pytest.mark.parametrize("given, made", [(None, None), (0, None), (1, 1), (7, 7)])
def test_rounds_are_counted_or_left_open(given, made):
    assert check_rounds(given) == made


@pytest.mark.parametrize("bad", [-1, 1.5, True, "2"])
def test_rounds_are_whole_numbers(bad):
    with pytest.raises(ConfigError, match=f"rounds must be a whole .*, got {bad!r}"):
        check_rounds(bad)


def test_a_ratio_may_not_pass_its_limit():
    options = PruningOptions(max_pruning_ratio=0.5)
    options.check_target(Target("pruning_ratio", 0.5))
    options.check_target(Target("max_flops", 0.9))
    with pytest.raises(ConfigError, match="pruning_ratio 0.6 is above max_pruning_ratio 0.5; rai"):
        options.check_target(Target("pruning_ratio", 0.6))


def test_layers_are_those_of_the_model_and_their_ratios_within_the_limit():
    model = nn.ModuleDict({"a": nn.Linear(1, 1)})
    PruningOptions(max_pruning_ratio=0.5, pruning_ratio_dict={"a": 0.5}).check_layers(model)
    for how, words in (
        ({"pruning_ratio_dict": {"a": 0.6}}, "0.6 for 'a', above max_pruning_ratio 0.5; raise"),
        ({"pruning_ratio_dict": {"b": 0.1}}, "'b', which is no module"),
        ({"ignored_layers": ["b"]}, "ignored_layers has 'b', which is no module"),
    ):
        with pytest.raises(ConfigError, match=words):
            PruningOptions(max_pruning_ratio=0.5, **how).check_layers(model)
