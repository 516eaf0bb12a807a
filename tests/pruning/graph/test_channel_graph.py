"""Groups of small models: members, parts, and why a width stays."""

import pytest
import torch
from torch import nn

from blendprune.errors import ConfigError
from blendprune.pruning import ChannelGraph, prunable
from blendprune.pruning.graph.groups import Member, group_notes
from blendprune.pruning.graph.kept_entries import KeptEntries
from tests.helpers import small_transformers
from tests.helpers.groups import group_of
from tests.helpers.small_net import SmallNet, residual, small_inputs
from tests.zoo import build_dense


def groups_of(net, **how):
    """Groups by root, but for the predictor's."""
    with prunable(net.eval()):
        groups = ChannelGraph(net, small_inputs(), **how).groups()
    return {group.root: group for group in groups if group.root != "p"}


def the_group(net, layer="a", **how):
    return group_of(groups_of(net, **how).values(), layer)


def behind(*layers):
    """A conv, the layers, and a predictor."""
    width = next((m.num_features for m in layers if isinstance(m, nn.BatchNorm2d)), None)
    width = width or next(m.num_channels for m in layers if isinstance(m, nn.GroupNorm))
    return SmallNet(
        lambda net, x: net.p(net.inner(net.a(x)).relu()),
        a=nn.Conv2d(3, width, 1),
        inner=nn.Sequential(*layers),
        p=nn.Conv2d(width, 2, 1),
    )


def summary(group):
    return group.num_parts, group.aligned, group.min_part_width, group.block_size, group.min_width


class TestMembers:
    def test_a_group_is_what_makes_normalises_and_reads_its_channels(self):
        net = SmallNet(
            lambda net, x: net.p(net.b(net.norm(net.a(x)).relu())),
            a=nn.Conv2d(3, 8, 3),
            norm=nn.BatchNorm2d(8),
            b=nn.Conv2d(8, 6, 1),
            p=nn.Conv2d(6, 2, 1),
        )
        groups = groups_of(net)
        assert {root: (group.width, group.members) for root, group in groups.items()} == {
            "a": (8, [Member("a", "out", 1), Member("norm", "out", 1), Member("b", "in", 1)]),
            "b": (6, [Member("b", "out", 1), Member("p", "in", 1)]),
        }
        assert all(group.prunable and group.ratio is None for group in groups.values())
        assert summary(groups["a"]) == (1, False, 1, 1, 1)

    def test_what_is_added_is_one_group(self):
        group = the_group(residual())
        assert set(group.members) == {
            Member("a", "out", 1),
            Member("b", "out", 1),
            Member("norm", "out", 1),
            Member("p", "in", 1),
        }

    def test_what_is_concatenated_is_several_groups(self):
        net = SmallNet(
            lambda net, x: net.p(torch.cat([net.a(x), net.b(x)], 1)),
            a=nn.Conv2d(3, 4, 1),
            b=nn.Conv2d(3, 8, 1),
            p=nn.Conv2d(12, 2, 1),
        )
        groups = groups_of(net)
        assert {root: (group.width, group.members) for root, group in groups.items()} == {
            "a": (4, [Member("a", "out", 1), Member("p", "in", 1)]),
            "b": (8, [Member("b", "out", 1), Member("p", "in", 1)]),
        }

    def test_a_channel_stands_for_all_places_of_a_flattened_map(self):
        net = SmallNet(
            lambda net, x: net.p(nn.functional.adaptive_avg_pool2d(net.a(x), 2).flatten(1)),
            a=nn.Conv2d(3, 4, 1),
            p=nn.Linear(16, 2),
        )
        assert the_group(net).members == [Member("a", "out", 1), Member("p", "in", 4)]

    def test_a_depthwise_conv_makes_no_channels(self):
        net = SmallNet(
            lambda net, x: net.p(net.b(net.a(x)).relu()),
            a=nn.Conv2d(3, 8, 3),
            b=nn.Conv2d(8, 8, 3, groups=8),
            p=nn.Conv2d(8, 2, 1),
        )
        [group] = groups_of(net).values()
        assert group.root == "a"
        assert Member("b", "out", 1) in group.members
        assert summary(group) == (1, False, 1, 1, 1)

    def test_a_parameter_with_an_entry_for_each_channel_is_a_member(self):
        net = SmallNet(
            lambda net, x: net.p(net.a(x) * net.scale.view(1, -1, 1, 1)),
            a=nn.Conv2d(3, 4, 1),
            scale=nn.Parameter(torch.ones(4)),
            p=nn.Conv2d(4, 2, 1),
        )
        assert Member("scale", "out", 1) in the_group(net).members

    @pytest.mark.parametrize("count", [2, 3])
    def test_a_parameter_with_an_entry_for_each_input_is_none(self, count):
        net = SmallNet(
            lambda net, x: net.p(net.a(x) * net.weights[0] + net.b(x) * net.weights[-1]),
            a=nn.Conv2d(3, 4, 1),
            b=nn.Conv2d(3, 4, 1),
            weights=nn.Parameter(torch.ones(count)),
            p=nn.Conv2d(4, 2, 1),
        )
        group = the_group(net)
        assert {member.layer for member in group.members} == {"a", "b", "p"}
        assert group.prunable and net.weights.requires_grad


class TestParts:
    def test_a_group_norm_keeps_two_channels_of_each_part(self):
        group = the_group(behind(nn.GroupNorm(4, 16)))
        assert summary(group) == (4, False, 2, 1, 8)
        assert group.prunable

    def test_two_group_norms_keep_parts_of_both(self):
        group = the_group(behind(nn.GroupNorm(4, 48), nn.GroupNorm(6, 48)))
        assert summary(group) == (12, False, 2, 1, 24)

    def test_a_group_at_its_minimum_stays(self):
        group = the_group(behind(nn.GroupNorm(4, 8)))
        assert group.frozen_reason == "already at its minimum width"
        assert group.min_width == 8 and not group.prunable
        assert the_group(behind(nn.BatchNorm2d(1))).frozen_reason == "already at its minimum width"
        assert the_group(behind(nn.BatchNorm2d(2))).prunable

    def test_attention_keeps_equal_positions_of_three_parts_in_whole_heads(self, overlay):
        net = build_dense(small_transformers.config_of("vitdet"), small_transformers.SIZE)
        images = [{"image": torch.rand(3, small_transformers.SIZE, small_transformers.SIZE)}]
        attention = "backbone.net.blocks.0.attn"
        with prunable(net):
            graph = ChannelGraph(net, images)
            groups = graph.groups()
        group = group_of(groups, f"{attention}.qkv")
        # Four heads of eight channels, each for queries, keys and values.
        assert group.width == 3 * 4 * 8
        assert summary(group) == (3, True, 1, 8, 3 * 8)
        assert group.prunable
        assert Member(attention, "out", 1) in group.members
        assert Member(f"{attention}.proj", "in", 1 / 3) in group.members
        # What attention adds to goes on to the next block.
        assert "residual stream" in group_of(groups, f"{attention}.proj").frozen_reason
        assert len(graph.notes) == len(set(graph.notes)) == 1

    def test_a_grouped_conv_keeps_equal_positions_of_its_inputs_and_two_of_its_outputs(self):
        net = SmallNet(
            lambda net, x: net.p(net.b(net.a(x)).relu()),
            a=nn.Conv2d(3, 16, 3),
            b=nn.Conv2d(16, 32, 3, groups=4),
            p=nn.Conv2d(32, 2, 1),
        )
        groups = groups_of(net)
        assert summary(groups["a"]) == (4, True, 1, 1, 4)
        assert summary(groups["b"]) == (4, True, 2, 1, 8)
        net.b, net.p = nn.Conv2d(16, 6, 1, groups=2), nn.Conv2d(6, 2, 1)
        groups = groups_of(net)
        assert summary(groups["a"]) == (2, True, 1, 1, 2)
        assert summary(groups["b"]) == (2, True, 2, 1, 4)


class TestFrozen:
    def test_channels_between_two_constants_stay(self):
        net = SmallNet(
            lambda net, x: net.p(
                torch.cat([torch.zeros(1, 2, 8, 8), net.a(x), torch.zeros(1, 1, 8, 8)], 1)
            ),
            a=nn.Conv2d(3, 4, 1),
            p=nn.Conv2d(7, 2, 1),
        )
        assert the_group(net).frozen_reason == "concatenated behind a constant"

    @pytest.mark.parametrize("behind", [False, True])
    def test_channels_beside_one_constant_do_not(self, behind):
        def run(net, x):
            parts = [net.a(x), torch.zeros(1, 2, 8, 8)]
            return net.p(torch.cat(parts[::-1] if behind else parts, 1))

        net = SmallNet(run, a=nn.Conv2d(3, 4, 1), p=nn.Conv2d(6, 2, 1))
        group = the_group(net)
        assert group.prunable
        [reader] = group.readers
        assert reader.entries.tolist() == [i + 2 * behind for i in range(4)]

    def test_channels_of_an_operator_that_mixes_them_stay(self):
        net = SmallNet(
            lambda net, x: net.p(net.a(x).cumsum(1)), a=nn.Conv2d(3, 4, 1), p=nn.Conv2d(4, 2, 1)
        )
        assert the_group(net).frozen_reason == "unknown operator CumsumBackward0"

    def test_channels_of_which_a_layer_makes_some_stay(self):
        net = SmallNet(
            lambda net, x: net.p(torch.cat([net.a(x), net.b(x)], 1) + net.c(x)),
            a=nn.Conv2d(3, 4, 1),
            b=nn.Conv2d(3, 8, 1),
            c=nn.Conv2d(3, 12, 1),
            p=nn.Conv2d(12, 2, 1),
        )
        group = the_group(net, "c")
        assert group.frozen_reason == "only 4 of them are its own (a)"
        shares = {member.layer: member.per_channel for member in group.members}
        assert shares == {"a": 4 / 12, "b": 8 / 12, "c": 1, "p": 1}

    def test_a_layer_that_does_not_run_is_noted(self):
        net = SmallNet(
            lambda net, x: net.p(net.a(x)),
            a=nn.Conv2d(3, 4, 1),
            p=nn.Conv2d(4, 2, 1),
            spare=nn.Conv2d(3, 3, 1),
            norm=nn.BatchNorm2d(3),
            activation=nn.ReLU(),
        ).eval()
        with prunable(net):
            notes = ChannelGraph(net, small_inputs()).notes
        words = "nothing was seen to run it; what feeds it may be pruned without it: pass data "
        words += "that runs it, with the labels of its loss"
        assert notes == [f"spare: {words}", f"norm: {words}"]


class TestIgnored:
    @pytest.mark.parametrize(
        "layers, reason",
        [
            (["a"], "ignored (a, 1 of 2 layers)"),
            (["b"], "ignored (b, 1 of 2 layers)"),
            (["b*"], "ignored by 'b*' (b, 1 of 2 layers)"),
            (["a", "b"], "ignored"),
            (["?"], "ignored by '?'"),
            # A conv says more than a norm.
            (["norm", "b"], "ignored (b, 1 of 2 layers)"),
        ],
    )
    def test_a_reason_says_by_what_and_which_of_the_layers(self, layers, reason):
        assert the_group(residual(), ignored_layers=layers).frozen_reason == reason

    def test_a_norm_that_is_ignored_keeps_its_group(self):
        group = the_group(residual(), ignored_layers=["norm"])
        assert group.frozen_reason.startswith("ignored (norm")

    def test_a_layer_that_only_reads_keeps_no_group(self):
        net = residual()
        assert the_group(net, ignored_layers=[net.p]).prunable

    def test_it_explains_more_than_what_the_architecture_wants(self):
        net = SmallNet(
            lambda net, x: net.p(net.a(x).cumsum(1)), a=nn.Conv2d(3, 4, 1), p=nn.Conv2d(4, 2, 1)
        ).eval()
        assert the_group(net, ignored_layers=["a"]).frozen_reason == "ignored"
        with prunable(net):
            [group] = [
                group
                for group in ChannelGraph(net, small_inputs(), ignored_layers=["p"]).groups()
                if group.root == "p"
            ]
        assert group.frozen_reason == "ignored"


class TestRatios:
    @pytest.mark.parametrize(
        "ratios, ratio, notes",
        [
            ({"b": 0.5}, 0.5, ["a: loses 50% by 'b', which names b, 1 of 2 layers"]),
            ({"a": 0.25}, 0.25, ["a: loses 25% by 'a', which names a, 1 of 2 layers"]),
            # The last entry counts, whichever layer it names.
            ({"a": 0.25, "b": 0.5}, 0.5, ["a: loses 50% by 'b', which names b, 1 of 2 layers"]),
            ({"b": 0.5, "a": 0.25}, 0.25, ["a: loses 25% by 'a', which names a, 1 of 2 layers"]),
            ({"a": 0.25, "[ab]": 0.5}, 0.5, []),
            ({"norm": 0.5}, 0.5, []),
        ],
    )
    def test_one_of_a_group_holds_for_all_of_it(self, ratios, ratio, notes):
        group = the_group(residual(), pruning_ratio_dict=ratios)
        assert (group.ratio, group.notes, group.frozen_reason) == (ratio, notes, "")

    @pytest.mark.parametrize(
        "ratios, reason",
        [
            ({"a": 0}, "pruning ratio 0"),
            ({"b": 0}, "pruning ratio 0 by 'b' (b)"),
            ({"b*": 0}, "pruning ratio 0 by 'b*' (b)"),
            ({"norm": 0}, "pruning ratio 0 by 'norm'"),
        ],
    )
    def test_a_ratio_of_zero_keeps_the_width(self, ratios, reason):
        group = the_group(residual(), pruning_ratio_dict=ratios)
        assert (group.frozen_reason, group.ratio) == (reason, None)

    def test_what_is_ignored_loses_no_ratio(self):
        group = the_group(residual(), pruning_ratio_dict={"b": 0.5}, ignored_layers=["a"])
        assert group.frozen_reason == "ignored (a, 1 of 2 layers)"
        assert (group.ratio, group.notes) == (None, [])

    @pytest.mark.parametrize(
        "net, ratios, words",
        [
            (residual, {"p": 0.5}, "'p': 0.5, but no layer it names .*: prediction layer"),
            (
                lambda: behind(nn.GroupNorm(4, 8)),
                {"a": 0.25},
                "'a': 0.25, but no layer it names .*: already at its minimum width",
            ),
            (
                lambda: SmallNet(
                    lambda net, x: net.p(net.act(net.a(x))),
                    a=nn.Conv2d(3, 4, 1),
                    act=nn.ReLU(),
                    p=nn.Conv2d(4, 2, 1),
                ),
                {"act": 0.5},
                "'act': 0.5, but no layer it names .*: it makes no channels of its own",
            ),
        ],
    )
    def test_a_ratio_that_nothing_can_lose_is_refused(self, net, ratios, words):
        net = net().eval()
        with prunable(net):
            graph = ChannelGraph(net, small_inputs(), pruning_ratio_dict=ratios)
            with pytest.raises(ConfigError, match=words):
                graph.check_ratios(graph.groups())

    @pytest.mark.parametrize(
        "ratios, ignored",
        [
            ({"?": 0.5}, ()),  # the predictor stays, the rest does not
            ({"p": 0}, ()),
            ({"b": 0.5}, ["a"]),
            ({"a": 0.5, "b": 0}, ()),
            ({}, ()),
        ],
    )
    def test_a_ratio_that_something_loses_or_that_was_withdrawn_is_not(self, ratios, ignored):
        net = residual()
        with prunable(net):
            graph = ChannelGraph(net, small_inputs(), ignored, ratios)
            graph.check_ratios(graph.groups())


def test_notes_are_of_groups_that_stay_for_a_reason_of_their_own_and_of_ratios():
    net = SmallNet(
        lambda net, x: net.p(net.c(net.a(x) + net.b(x))),
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(3, 8, 1),
        c=nn.Conv2d(8, 6, 1),
        p=nn.Conv2d(6, 2, 1),
    ).eval()
    with prunable(net):
        graph = ChannelGraph(net, small_inputs(), ["c"], {"b": 0.5})
        notes = group_notes(graph.groups())
    assert notes == [
        "c: all 6 channels stay: ignored",
        "a: loses 50% by 'b', which names b, 1 of 2 layers",
    ]


class TestPruning:
    def test_all_members_lose_the_channels_and_what_is_kept_is_known(self):
        net = residual()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        kept = KeptEntries()
        with prunable(net):
            graph = ChannelGraph(net, small_inputs())
            graph.prune(group_of(graph.groups(), "a"), torch.tensor([5, 0]), kept)
        left = [1, 2, 3, 4, 6, 7]
        for name in ("a.weight", "b.weight", "norm.weight", "norm.running_mean", "a.bias"):
            assert torch.equal(net.state_dict()[name], before[name][left]), name
        assert torch.equal(net.p.weight, before["p.weight"][:, left])
        assert kept.entries(net.a, "bias").tolist() == left
        assert torch.equal(
            before["p.weight"].flatten()[kept.entries(net.p, "weight")], net.p.weight
        )
        assert kept.entries(net.a, "bias").dtype == torch.int64

    def test_what_is_kept_is_followed_over_several_steps(self):
        net, kept = residual(), KeptEntries()
        with prunable(net):
            for channels in ([0, 1], [0]):
                graph = ChannelGraph(net, small_inputs())
                graph.prune(group_of(graph.groups(), "a"), channels, kept)
        assert kept.entries(net.norm, "weight").tolist() == [3, 4, 5, 6, 7]

    def test_a_layer_that_lost_nothing_has_all_its_entries(self):
        net, kept = residual(), KeptEntries()
        assert kept.entries(net.a, "weight") is None
        with prunable(net):
            graph = ChannelGraph(net, small_inputs())
            graph.prune(group_of(graph.groups(), "a"), [0], kept)
        assert kept.entries(net.p, "bias").tolist() == [0, 1]
