"""The way of a model to its targets: how many rounds, how far each goes, what is refused."""

import copy

import pytest
import torch

from blendprune.errors import ConfigError, PruningError, TargetUnreachable
from blendprune.pruning import prune
from tests.helpers.chain import Chain, chain_costs, chain_inputs, chain_memory
from tests.helpers.state import remember, unchanged


def prune_chain(model=None, inputs=None, **how):
    """Prune a chain by magnitude; returns the report, the steps, and the widths after each.

    Widths are free on every machine, unless a test rounds them.
    """
    model = Chain().eval() if model is None else model
    steps, widths = [], []

    def progress(*step):
        steps.append(step)
        widths.append((model.first.out_channels, model.second.out_channels))

    how = {"importance": "magnitude", "round_to": 1, **how}
    return prune(model, inputs or chain_inputs(), progress=progress, **how), steps, widths


@pytest.mark.parametrize(
    "target, count",
    [
        ({"max_flops": 0.66}, 1),
        ({"max_flops": 0.64}, 2),
        ({"max_flops": 0.43}, 2),
        ({"max_flops": 0.42}, 3),
        ({"max_params": 0.42}, 3),
        ({"max_activations": 0.64}, 2),
        ({"pruning_ratio": 0.34}, 1),
        ({"pruning_ratio": 0.36}, 2),
        ({"pruning_ratio": 0.58}, 3),
    ],
)
def test_a_round_keeps_at_least_sixty_five_hundredths(target, count):
    _, steps, _ = prune_chain(**target)
    assert steps == [(done, count) for done in range(1, count + 1)]


def test_a_number_of_rounds_that_is_given_holds():
    _, steps, _ = prune_chain(max_flops=0.9, rounds=3)
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_rounds_count_from_the_last_level():
    _, steps, _ = prune_chain(max_flops=0.3, levels=[0.8, 0.6])
    assert steps == [(1, 1), (1, 1), (1, 2), (2, 2)]
    _, steps, _ = prune_chain(pruning_ratio=0.5, levels=[0.3])
    assert steps == [(1, 1), (1, 1)]
    _, steps, _ = prune_chain(pruning_ratio=0.54, levels=[0.3])
    assert steps == [(1, 1), (1, 1)]
    # 0.45 of 0.7 channels is less than 0.65.
    _, steps, _ = prune_chain(pruning_ratio=0.55, levels=[0.3])
    assert steps == [(1, 1), (1, 2), (2, 2)]


def test_each_round_keeps_an_equal_share_of_the_channels():
    _, _, widths = prune_chain(pruning_ratio=0.75, rounds=2, global_pruning=False)
    assert widths == [(30, 30), (15, 15)]
    _, _, widths = prune_chain(pruning_ratio=0.75, rounds=2, levels=[0.5], global_pruning=False)
    assert widths == [(43, 43), (30, 30), (22, 22), (15, 15)]


@pytest.mark.parametrize("unit", ["flops", "params", "activations"])
def test_each_round_keeps_an_equal_share_of_the_cost(unit):
    report, _, widths = prune_chain(**{f"max_{unit}": 0.37}, rounds=2)
    dense = chain_costs(60, 60)[unit]
    for target, pair in zip((0.37**0.5, 0.37), widths, strict=True):
        assert 0.98 * target <= chain_costs(*pair)[unit] / dense <= target
    assert getattr(report, unit) == {"before": dense, "after": chain_costs(*widths[-1])[unit]}


def test_the_report_has_every_layer_and_cost():
    report, _, [widths] = prune_chain(max_flops=0.66)
    after = chain_costs(*widths)
    for unit, dense in chain_costs(60, 60).items():
        assert getattr(report, unit) == {"before": dense, "after": after[unit]}
    assert report.layers == {
        "first": {"before": 60, "after": widths[0]},
        "second": {"before": 60, "after": widths[1]},
        "predictor": {"before": 2, "after": 2},
    }
    assert report.notes == [] and not report.latency_ms


def test_a_note_says_what_stays():
    report, _, _ = prune_chain(max_flops=0.61, ignored_layers=["first"])
    [note] = report.notes
    assert note.startswith("first: all 60 channels stay: ignored")


def test_a_note_says_which_ratio_is_beyond_its_limit():
    report, _, _ = prune_chain(
        max_flops=0.56, pruning_ratio_dict={"second": 0.5}, max_pruning_ratio=0.51, round_to=32
    )
    assert report.notes == [
        "second: keeps 32 of 60 channels, its minimum width, although it was to lose 50%"
    ]


def test_what_nothing_can_shrink_is_refused_with_the_reasons():
    with pytest.raises(PruningError, match="no group of channels.* second: .*; first: ") as raised:
        prune_chain(max_flops=0.5, ignored_layers=["first", "second"])
    assert not isinstance(raised.value, TargetUnreachable)


def test_a_target_out_of_reach_is_refused_with_what_can_be_reached():
    least = chain_costs(6, 6)["flops"] / chain_costs(60, 60)["flops"]
    for model in (Chain().eval(), Chain().train()):
        before = remember(model)
        with pytest.raises(TargetUnreachable, match="max_flops 0.01 is out of reach") as raised:
            prune_chain(model, max_flops=0.01)
        # 0.0146: what is shown is rounded up, so that it can be asked for.
        assert "go down to 0.01459 of the dense model's flops" in str(raised.value)
        assert raised.value.reachable == pytest.approx(least)
        assert unchanged(model, before)
    assert prune_chain(max_flops=least * 1.001)[2][-1] == (6, 6)


def test_a_later_target_out_of_reach_is_refused_before_the_first_level():
    reached = []
    with pytest.raises(TargetUnreachable, match="max_flops 0.01 is out of reach"):
        prune_chain(max_flops=0.01, levels=[0.5], on_level=lambda *level: reached.append(level))
    assert reached == []


def test_steps_too_wide_for_the_tolerance_are_refused_with_the_nearest_cost():
    # Widths of 60 and 30: the largest cost below the target is that of (60, 30).
    nearest = chain_costs(60, 30)["flops"] / chain_costs(60, 60)["flops"]
    with pytest.raises(TargetUnreachable, match="cannot be met within 2%") as raised:
        prune_chain(max_flops=0.9, round_to=30)
    assert raised.value.reachable == pytest.approx(nearest, rel=0.05)
    assert f"give {raised.value.reachable:.3f} of the dense model's flops" in str(raised.value)


class TestAuto:
    """Rounded to what the machine runs well."""

    @pytest.fixture(autouse=True)
    def avx512(self, monkeypatch):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")

    def test_wide_layers_get_multiples(self):
        report, _, widths = prune_chain(
            Chain(256, 256).eval(), max_flops=0.51, pruning_ratio_dict={"first": 0}, round_to="auto"
        )
        assert widths == [(256, 176), (256, 128)]
        assert report.round_to == {"multiple": 16, "auto": True, "reason": "AVX-512, float32"}
        assert not any("multiples" in note for note in report.notes)

    def test_it_takes_finer_steps_to_come_close_to_a_target(self):
        model = Chain(128, 128).eval()
        how = {"max_flops": 0.945, "pruning_ratio_dict": {"first": 0}}
        with pytest.raises(TargetUnreachable, match="within 2%.*0.878 .*ask for that, or lower"):
            prune_chain(copy.deepcopy(model), **how, round_to=16)
        report, _, widths = prune_chain(model, **how, round_to="auto")
        assert widths == [(128, 120)]
        assert report.notes[-1] == (
            "multiples of 16 do not meet the target: some widths are multiples of 8"
        )

    def test_it_takes_finer_steps_to_reach_a_target(self):
        # A tenth of 128 is 13; of the multiples of 16, 16 is the smallest.
        model = Chain(128, 128).eval()
        least, dense = (chain_costs(width, width)["flops"] for width in (13, 128))
        with pytest.raises(TargetUnreachable, match="out of reach.*fewer layers, or lower round"):
            prune_chain(copy.deepcopy(model), max_flops=1.001 * least / dense, round_to=16)
        _, _, widths = prune_chain(model, max_flops=1.001 * least / dense, round_to="auto")
        assert widths[-1] == (13, 13)
        with pytest.raises(TargetUnreachable, match="ignore fewer layers$"):
            prune_chain(Chain(128, 128).eval(), max_flops=0.9 * least / dense, round_to="auto")

    def test_a_width_that_is_no_multiple_may_stay(self):
        _, _, [*_, (first, second)] = prune_chain(
            Chain(250, 255).eval(),
            max_flops=0.575,
            pruning_ratio_dict={"first": 0},
            round_to="auto",
        )
        assert (first, second) == (250, 144)

    def test_a_small_ratio_of_one_layer_is_lost(self):
        _, _, [(first, second)] = prune_chain(
            Chain(256, 256).eval(), max_flops=0.78, pruning_ratio_dict={"first": 0.05},
            round_to="auto",
        )  # fmt: skip
        assert (first, second) == (244, 208)


def test_ratios_that_take_more_than_the_target_are_refused():
    left = chain_costs(60, 30)["flops"] / chain_costs(60, 60)["flops"]
    with pytest.raises(TargetUnreachable, match="pruning_ratio_dict alone leaves 0.5") as raised:
        prune_chain(max_flops=0.9, pruning_ratio_dict={"second": 0.5})
    assert raised.value.reachable == pytest.approx(left)
    # Within the tolerance they are what was asked for.
    _, _, widths = prune_chain(max_flops=left * 1.001, pruning_ratio_dict={"second": 0.5})
    assert widths[-1] == (60, 30)


def test_a_layer_loses_its_ratio_over_the_rounds_and_the_rest_meets_the_target():
    _, _, widths = prune_chain(max_flops=0.36, rounds=2, pruning_ratio_dict={"second": 0.51})
    assert [second for _, second in widths] == [42, 30]
    dense = chain_costs(60, 60)["flops"]
    assert 0.98 * 0.36 <= chain_costs(*widths[-1])["flops"] / dense <= 0.36


def test_obs_weighs_a_channel_by_what_it_costs_unless_a_ratio_is_asked_for():
    model = Chain(60, 20).eval()
    how = {"importance": "obs", "data": [chain_inputs(1), chain_inputs(2)], "rounds": 1}

    def widths(**asked):
        return prune_chain(copy.deepcopy(model), **how, **asked)[2]

    by_flops = widths(max_flops=0.5, normalize="flops")
    assert widths(max_flops=0.5) == by_flops != widths(max_flops=0.5, normalize="activations")
    # All channels have as many activations.
    equal = widths(pruning_ratio=0.4, normalize="activations")
    assert widths(pruning_ratio=0.4) == equal != widths(pruning_ratio=0.4, normalize="flops")


def test_a_large_score_outlives_a_small_one():
    model = Chain().eval()
    with torch.no_grad():
        model.first.weight[:30] *= 10
        model.second.weight[30:] *= 10
    kept = copy.deepcopy(model)
    prune_chain(model, pruning_ratio=0.5, global_pruning=False, rounds=1)
    assert torch.equal(model.first.weight, kept.first.weight[:30])
    assert torch.equal(model.second.weight, kept.second.weight[30:, :30])
    assert torch.equal(model.predictor.weight, kept.predictor.weight[:, 30:])


class TestMemory:
    # An image of 250 times as many pixels.
    WIDE = [{"image": torch.zeros(3, 8, 2000)}]

    def test_the_peak_goes_down_to_the_target(self):
        report, steps, widths = prune_chain(max_memory=0.5)
        dense = chain_memory(60, 60)
        assert report.memory_mb == {"before": dense / 1e6, "after": chain_memory(*widths[-1]) / 1e6}
        assert 0.98 * 0.5 <= report.memory_mb["after"] / report.memory_mb["before"] <= 0.5
        assert steps == [(1, 2), (2, 2)]
        # The first of two equal rounds keeps the square root.
        assert chain_memory(*widths[0]) <= 0.5**0.5 * dense < chain_memory(widths[0][0] + 1, 0)

    @pytest.mark.parametrize("how", [{}, {"importance": "obs"}, {"global_pruning": False}])
    def test_a_layer_that_is_in_no_peak_keeps_its_width(self, how):
        if how.get("importance") == "obs":
            how = {**how, "data": [chain_inputs(seed) for seed in range(2)]}
        report, _, widths = prune_chain(Chain(60, 20).eval(), max_memory=0.5, **how)
        first, second = widths[-1]
        # 32 bytes a position are left for two maps, less the image of 3.
        assert (first, second) == (29, 20)
        assert report.memory_mb["after"] == chain_memory(29, 20) / 1e6

    def test_both_layers_of_a_peak_shrink_no_further_than_they_must(self):
        _, _, widths = prune_chain(max_memory=0.5, rounds=1)
        assert widths == [(29, 29)]

    def test_megabytes_are_met_too(self):
        reached = []
        report, _, _ = prune_chain(
            inputs=self.WIDE,
            max_memory=3.05,
            levels=[6],
            on_level=lambda *level: reached.append(level),
        )
        assert report.memory_mb["before"] == pytest.approx(250 * chain_memory(60, 60) / 1e6)
        [(level, first)] = reached
        assert level == 6 and 0.98 * 6 <= first.memory_mb["after"] <= 6
        assert 0.98 * 3.05 <= report.memory_mb["after"] <= 3.05

    def test_megabytes_that_the_model_has_anyway_are_refused(self):
        with pytest.raises(
            ConfigError, match=r"max_memory 8 MB is met already: .* has 7.87 MB; as"
        ):
            prune_chain(inputs=self.WIDE, max_memory=8)

    def test_megabytes_out_of_reach_say_what_can_be_reached(self):
        words = r"max_memory 1 MB is out of reach: .* go down to 4.04 MB; ask for that, raise max_p"
        with pytest.raises(TargetUnreachable, match=words) as raised:
            prune_chain(inputs=self.WIDE, max_memory=1, max_pruning_ratio=0.5)
        assert raised.value.reachable == pytest.approx(chain_memory(30, 30) / chain_memory(60, 60))
        report, _, _ = prune_chain(inputs=self.WIDE, max_memory=4.04, max_pruning_ratio=0.5)
        assert report.memory_mb["after"] <= 4.04

    def test_a_limit_between_two_steps_is_met_and_noted(self):
        report, _, widths = prune_chain(max_memory=0.6, round_to=30, rounds=1)
        assert widths == [(30, 30)]
        share = chain_memory(30, 30) / chain_memory(60, 60)
        words = "max_memory 0.6: the nearest widths that are allowed give"
        assert f"{words} {share + 0.0005:.3f} of the dense model's memory" in report.notes

    def test_ratios_of_single_layers_may_do_more(self):
        report, _, widths = prune_chain(max_memory=0.8, pruning_ratio_dict={"*": 0.5})
        assert widths[-1] == (30, 30)
        assert any(note.startswith("max_memory 0.8: the nearest") for note in report.notes)

    def test_no_other_target_counts_it(self):
        report, _, _ = prune_chain(max_flops=0.5)
        assert report.memory_mb == {}
