"""The choice of widths for a target, on groups made by hand."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from blendprune.errors import TargetUnreachable
from blendprune.pruning.graph.groups import ChannelGroup
from blendprune.pruning.search.options import PruningOptions
from blendprune.pruning.search.search import (
    TOLERANCE,
    Search,
    allowed_widths,
    channel_order,
    chunks_of,
    ratio_notes,
)

# Narrow groups can lose all but one channel, and lose them one by one on every machine.
FREE = PruningOptions(max_pruning_ratio=0.9, round_to=1)


def group(width, layer=nn.Conv2d, **how):
    """A group that one layer makes."""
    made_by = SimpleNamespace(
        target=SimpleNamespace(module=layer(1, 1, 1)), handler=SimpleNamespace(__name__="out")
    )
    return ChannelGroup(f"{width} wide", width, [], handle=[(made_by, [])], **how)


def search(groups, scores, limits=None, dense=None, part=1.0):
    scores = [None if score is None else torch.tensor(score).double() for score in scores]
    dense = dense or [each.width for each in groups]
    return Search(groups, scores, dense, limits or FREE, part)


def widths_of(each, dense=None, **options):
    """Widths below the present one that a group may take."""
    return list(allowed_widths(each, dense or each.width, replace(FREE, **options)))


class TestAllowedWidths:
    def test_a_group_may_take_every_width_down_to_a_tenth(self):
        assert widths_of(group(10)) == [9, 8, 7, 6, 5, 4, 3, 2, 1]
        assert widths_of(group(20))[-1] == 2

    def test_no_group_loses_more_than_the_limit_of_its_dense_width(self):
        assert widths_of(group(10), max_pruning_ratio=0.55) == [9, 8, 7, 6, 5]
        assert widths_of(group(10), 15, max_pruning_ratio=0.6) == [9, 8, 7, 6]

    def test_a_limit_that_floats_cannot_hold_is_met_exactly(self):
        assert (1 - 0.7) * 10 > 3
        assert widths_of(group(10), max_pruning_ratio=0.7)[-1] == 3

    def test_changed_widths_are_multiples_of_round_to(self):
        assert widths_of(group(10), round_to=4) == [8, 4]
        assert widths_of(group(8), round_to=4) == [4]
        assert widths_of(group(4), round_to=4) == []
        assert widths_of(group(3), round_to=4) == []

    def test_a_step_takes_whole_blocks_of_every_part(self):
        assert widths_of(group(24, num_parts=2, block_size=3)) == [18, 12, 6]
        assert widths_of(group(36, num_parts=2, block_size=3), round_to=4) == [24, 12]

    def test_parts_keep_their_least_channels(self):
        assert widths_of(group(16, num_parts=4, min_part_width=2)) == [12, 8]

    def test_a_group_that_stays_has_no_other_width(self):
        assert widths_of(group(10, frozen_reason="ignored")) == []


class TestRatioNotes:
    def test_a_ratio_that_the_limits_allow_needs_no_note(self):
        groups = [group(10, ratio=0.5), group(10), group(10, ratio=0.55)]
        # 0.55 of ten channels are five and a half: five go, as steps go down.
        assert ratio_notes(groups, FREE) == []
        assert ratio_notes(groups, replace(FREE, max_pruning_ratio=0.5)) == []

    def test_a_ratio_beyond_the_least_width_is_noted(self):
        groups = [group(10, ratio=0.6), group(16, num_parts=4, min_part_width=2, ratio=0.75)]
        assert ratio_notes(groups, replace(FREE, max_pruning_ratio=0.5)) == [
            "10 wide: keeps 5 of 10 channels, its minimum width, although it was to lose 60%",
            "16 wide: keeps 8 of 16 channels, its minimum width, although it was to lose 75%",
        ]

    def test_a_group_that_can_take_no_other_width_keeps_its_own(self):
        assert ratio_notes([group(6, ratio=0.5)], PruningOptions(round_to=8)) == [
            "6 wide: keeps 6 of 6 channels, its minimum width, although it was to lose 50%"
        ]


class TestChannelOrder:
    def test_the_least_important_channel_goes_first(self):
        assert channel_order(group(3), torch.tensor([3.0, 1, 2])).tolist() == [[1, 2, 0]]

    def test_of_equal_channels_the_first_goes_first(self):
        assert channel_order(group(100), torch.ones(100)).tolist() == [list(range(100))]

    def test_each_part_loses_its_own_least_important_channel(self):
        order = channel_order(group(4, num_parts=2), torch.tensor([3.0, 1, 0, 5]))
        assert order.tolist() == [[1, 0], [2, 3]]

    def test_aligned_parts_lose_the_position_that_matters_least_in_all(self):
        order = channel_order(group(4, num_parts=2, aligned=True), torch.tensor([3.0, 1, 0, 5]))
        assert order.tolist() == [[0, 1], [2, 3]]

    def test_the_channels_of_a_block_follow_each_other(self):
        scores = torch.tensor([0.0, 9, 2, 2, 3, 3, 1, 0])
        order = channel_order(group(8, num_parts=2, block_size=2), scores)
        assert order.tolist() == [[2, 3, 0, 1], [6, 7, 4, 5]]


class TestChunks:
    def test_single_channels_ascend_down_to_the_least_width(self):
        chunks = chunks_of(7, group(4), torch.tensor([3.0, 1, 2, 0]), 4, FREE)
        assert [(c.group, c.channels, c.score) for c in chunks] == [
            (7, [3], 0),
            (7, [1], 1),
            (7, [2], 2),
        ]

    def test_a_first_step_to_a_multiple_is_as_large_as_it_must_be(self):
        scores = torch.arange(7.0)
        chunks = chunks_of(0, group(7), scores, 7, PruningOptions(round_to=3))
        assert [(c.channels, c.score) for c in chunks] == [([0], 0), ([1, 2, 3], 2)]

    def test_a_step_of_all_parts_has_the_mean_of_their_scores(self):
        [chunk] = chunks_of(
            0, group(4, num_parts=2), torch.tensor([3.0, 1, 0, 5]), 4, PruningOptions()
        )
        assert (chunk.channels, chunk.score) == ([1, 2], 0.5)

    def test_a_chunk_of_blocks_has_the_mean_of_its_channels(self):
        scores = torch.tensor([0.0, 10, 4, 2, 7, 9])
        chunks = chunks_of(0, group(6, block_size=2), scores, 6, FREE)
        assert [(c.channels, c.score) for c in chunks] == [([2, 3], 3), ([0, 1], 5)]


class TestScopes:
    """What a ratio takes from two groups whose scores differ in size."""

    SMALL, LARGE = [1.0, 2, 3, 4], [10.0, 20, 30, 40]

    def test_all_groups_are_ranked_together(self):
        found = search([group(4), group(4)], [self.SMALL, self.LARGE])
        assert [chunk.order for chunk in found.chunks] == [n / 8 for n in range(1, 7)]
        assert found.by_ratio(0.5) == {0: [0, 1, 2], 1: [0]}
        assert found.by_ratio(0.1) == {}

    def test_each_group_loses_the_ratio_where_it_is_ranked_alone(self):
        limits = replace(FREE, global_pruning=False)
        found = search([group(4), group(8)], [self.SMALL, self.LARGE + self.LARGE], limits)
        assert found.by_ratio(0.5) == {0: [0, 1], 1: [0, 4, 1, 5]}
        assert found.by_ratio(0.3) == {0: [0], 1: [0, 4]}

    def test_groups_of_one_make_up_are_ranked_together(self):
        groups = [group(4), group(4), group(4, nn.Linear)]
        limits = replace(FREE, isomorphic=True)
        found = search(groups, [self.SMALL, self.LARGE, [5.0, 6, 7, 8]], limits)
        assert found.by_ratio(0.5) == {0: [0, 1, 2], 1: [0], 2: [0, 1]}

    def test_isomorphic_scopes_hold_even_without_global_pruning(self):
        limits = replace(FREE, isomorphic=True, global_pruning=False)
        found = search([group(4), group(4)], [self.SMALL, self.LARGE], limits)
        assert found.by_ratio(0.5) == {0: [0, 1, 2], 1: [0]}

    def test_a_group_that_always_stayed_does_not_count(self):
        found = search([group(4), group(4, frozen_reason="ignored")], [self.SMALL, None])
        assert found.by_ratio(0.5) == {0: [0, 1]}

    def test_a_group_that_an_earlier_round_brought_to_its_least_width_counts(self):
        groups = [group(4), group(1, frozen_reason="already at its minimum width")]
        found = search(groups, [self.SMALL, None], dense=[4, 4])
        assert found.by_ratio(0.5) == {0: [0]}

    def test_channels_lost_in_earlier_rounds_count(self):
        found = search([group(3)], [[1.0, 2, 3]], dense=[4])
        assert [chunk.order for chunk in found.chunks] == [0.5, 0.75]
        assert found.by_ratio(0.5) == {0: [0]}

    def test_a_ratio_that_floats_cannot_hold_is_met(self):
        ratio = 1 - (1 - 0.1)
        assert ratio < 0.1
        assert search([group(10)], [list(range(10))]).by_ratio(ratio) == {0: [0]}


class TestOwnRatio:
    """Groups that lose a fraction of their own."""

    def test_it_is_lost_whatever_the_target(self):
        groups = [group(8, ratio=0.5), group(8)]
        found = search(groups, [list(range(8)), list(range(8))])
        assert found.widths == [4, 8]
        assert found.by_ratio(0.01) == {0: [0, 1, 2, 3]}
        assert found.by_ratio(0.25) == {0: [0, 1, 2, 3], 1: [0, 1]}
        assert found.by_cost(sum, 10) == {0: [0, 1, 2, 3], 1: [0, 1]}

    def test_over_several_rounds_equal_steps_lead_to_it(self):
        width, widths = 8, []
        for done in (1, 2, 3):
            found = search(
                [group(width, ratio=0.5), group(8)],
                [list(range(width)), list(range(8))],
                dense=[8, 8],
                part=done / 3,
            )
            # What the others lose is chosen for the width it ends with.
            assert found.widths == [4, 8]
            width -= len(found.by_ratio(0.01).get(0, ()))
            widths.append(width)
        assert widths == [7, 6, 4]

    def test_it_is_lost_at_once_unless_rounds_are_left(self):
        found = Search([group(8, ratio=0.5)], [torch.arange(8.0)], [8], FREE)
        assert found.by_ratio(0.1) == {0: [0, 1, 2, 3]}

    def test_it_stops_at_a_width_that_is_allowed(self):
        scores = [list(range(8))]
        limits = PruningOptions(round_to=3)
        assert search([group(8, ratio=0.5)], scores, limits).by_ratio(0.9) == {0: [0, 1]}
        limits = replace(FREE, max_pruning_ratio=0.25)
        assert search([group(8, ratio=0.5)], scores, limits).by_ratio(0.9) == {0: [0, 1]}
        assert search([group(8, ratio=0.4)], scores).by_ratio(0.9) == {0: [0, 1, 2]}

    def test_a_ratio_that_floats_cannot_hold_is_met(self):
        assert 0.29 * 100 < 29
        found = search([group(100, ratio=0.29)], [list(range(100))])
        assert found.widths == [71]
        assert found.by_ratio(0.5) == {0: list(range(29))}

    def test_a_group_that_has_arrived_loses_no_more(self):
        found = search([group(4, ratio=0.5), group(4)], [[1.0] * 4] * 2, dense=[8, 4])
        assert found.widths == [4, 4]
        assert found.by_ratio(0.25) == {1: [0]}

    def test_it_may_have_come_to_its_least_width(self):
        groups = [group(4, ratio=0.5, frozen_reason="already at its minimum width"), group(4)]
        found = search(groups, [None, [1.0] * 4], dense=[8, 4])
        assert found.by_ratio(0.5) == {1: [0, 1]}


class TestByCost:
    def test_the_least_important_channels_go_until_the_target_is_met(self):
        found = search([group(4), group(4)], [[1.0, 2, 3, 4], [2.5, 30, 20, 40]])
        assert found.by_cost(sum, 8) == {}
        assert found.by_cost(sum, 7) == {0: [0]}
        assert found.by_cost(sum, 5) == {0: [0, 1], 1: [0]}
        assert found.by_cost(sum, 3) == {0: [0, 1, 2], 1: [0, 2]}

    def test_a_target_between_two_widths_is_met_from_below(self):
        found = search([group(100)], [list(range(100))])
        assert found.by_cost(sum, 60.5) == {0: list(range(40))}

    def test_the_least_cost_is_the_one_of_the_least_widths(self):
        found = search([group(4), group(20)], [[1.0] * 4, [1.0] * 20])
        assert found.least(sum) == 3
        assert found.by_cost(sum, 3) == {0: [0, 1, 2], 1: list(range(18))}

    def test_a_target_below_the_least_cost_is_refused_with_that_cost(self):
        found = search([group(4), group(20)], [[1.0] * 4, [1.0] * 20])
        with pytest.raises(TargetUnreachable, match="do not reach") as raised:
            found.by_cost(sum, 2.9)
        assert raised.value.reachable == 3

    def test_a_group_whose_width_costs_nothing_stays(self):
        found = search([group(4), group(4)], [[10.0] * 4, [1.0] * 4])
        assert found.by_cost(lambda widths: widths[0], 2) == {0: [0, 1]}

    def test_a_last_step_that_is_too_large_gives_back_smaller_ones_before_it(self):
        groups = [group(20), group(32, block_size=16)]
        found = search(groups, [[1.0] * 20, [2.0] * 32])
        # Eighteen channels leave 34, too many; with the block, three of them are enough.
        assert found.by_cost(sum, 33) == {0: [0, 1, 2], 1: list(range(16))}

    def test_a_step_that_is_too_large_is_left_out_where_the_others_reach_the_target(self):
        groups = [group(20), group(32, block_size=16)]
        found = search(groups, [[1.0] * 10 + [3.0] * 10, [2.0] * 32])
        # With the block and nothing else the cost is 36.
        assert found.by_cost(sum, 40) == {0: list(range(12))}

        groups = [group(20), group(48, block_size=16)]
        found = search(groups, [[1.0] * 20, [2.0] * 48])
        assert found.by_cost(sum, 33) == {0: [0, 1, 2], 1: list(range(32))}

    def test_nothing_is_given_back_where_the_target_is_close(self):
        groups = [group(1000), group(1000, block_size=2)]
        found = search(groups, [[1.0] * 1000, [2.0] * 1000])
        gone = found.by_cost(sum, 1001)
        assert (len(gone[0]), len(gone[1])) == (900, 100)

    def test_the_largest_of_several_costs_leaves_alone_what_is_in_none_of_them(self):
        each = search([group(10), group(10)], [range(10), range(10, 20)])

        def cost(widths):
            return max(2 * widths[0], widths[1])

        def excess(limit):
            return lambda widths: max(0, 2 * widths[0] - limit) + max(0, widths[1] - limit)

        # The second group is in a sum that the target allows.
        assert each.by_cost(cost, 12, excess(12)) == {0: [0, 1, 2, 3]}
        assert each.by_cost(cost, 8, excess(8)) == {0: [0, 1, 2, 3, 4, 5], 1: [0, 1]}

    def test_the_largest_of_several_costs_takes_nothing_that_it_need_not(self):
        # All chunks of the second group come before the last ones of the first.
        each = search([group(10), group(10)], [range(10, 20), range(10)])

        def cost(widths):
            return max(2 * widths[0], widths[1])

        def excess(widths):
            return max(0, 2 * widths[0] - 9) + max(0, widths[1] - 9)

        assert each.by_cost(cost, 9, excess) == {0: [0, 1, 2, 3, 4, 5], 1: [0]}

    def test_a_first_step_that_is_too_large_is_left_out(self):
        groups = [group(20), group(32, block_size=16)]
        found = search(groups, [[2.0] * 20, [1.0] * 32])
        assert found.by_cost(sum, 50) == {0: [0, 1]}

    def test_a_step_is_left_out_where_the_others_just_reach_the_target(self):
        groups = [group(10), group(32, block_size=16)]
        found = search(groups, [[2.0] * 10, [1.0] * 32])
        assert found.by_cost(sum, 33) == {0: list(range(9))}

    def test_a_step_that_is_too_large_is_taken_where_nothing_else_reaches_the_target(self):
        groups = [group(10), group(32, block_size=16)]
        found = search(groups, [[1.0] * 10, [2.0] * 32])
        assert found.least(sum) == 17
        assert found.by_cost(sum, 30) == {1: list(range(16))}

    @pytest.mark.parametrize("target", [0.9, 0.83, 0.75, 0.7, 0.6, 0.55])
    def test_a_group_of_large_steps_does_not_keep_the_others_from_the_target(self, target):
        """Its blocks are a tenth of the cost each, and cheap; single channels fill the rest."""
        groups = [group(80, block_size=16), group(64)]
        scores = [torch.linspace(0.1, 0.4, 80).tolist(), torch.linspace(0.3, 1.0, 64).tolist()]

        def cost(widths):
            return widths[0] / 80 / 2 + widths[1] / 64 / 2

        left = left_by(search(groups, scores).by_cost(cost, target), groups)
        assert (1 - TOLERANCE) * target <= cost(left) <= target
        assert left[0] % 16 == 0


def left_by(gone, groups):
    """Widths once channels are gone."""
    return [each.width - len(gone.get(index, ())) for index, each in enumerate(groups)]


@pytest.fixture(params=range(12))
def request_of(request):
    """Random groups, their scores, limits and a cost that grows with every width."""
    random = torch.Generator().manual_seed(request.param)

    def draw(*choices):
        return choices[torch.randint(len(choices), (), generator=random)]

    groups = [
        group(
            draw(64, 96, 128, 192),
            draw(nn.Conv2d, nn.Linear),
            **draw(
                {},
                {},
                {"num_parts": 8, "min_part_width": 2},
                {"num_parts": 3, "aligned": True, "block_size": 4},
            )
            | draw({}, {}, {}, {"ratio": 0.3}),
        )
        for _ in range(5)
    ]
    groups = [each for each in groups if each.width % (each.num_parts * each.block_size) == 0]
    groups += [group(64), group(128), group(40, frozen_reason="ignored")]
    scores = [
        None if each.frozen_reason else torch.rand(each.width, generator=random).tolist()
        for each in groups
    ]
    limits = PruningOptions(
        round_to=draw(1, 1, 2, 4),
        max_pruning_ratio=draw(0.9, 0.75),
        **draw({}, {"global_pruning": False}, {"isomorphic": True}),
    )
    weights = torch.rand(len(groups), generator=random).tolist()

    def cost(widths):
        """Layers one behind the other, as the weights of convs count."""
        behind = [*widths[1:], 10]
        return sum(w * a * b for w, a, b in zip(weights, widths, behind))

    return groups, scores, limits, cost


SHARES = (0.95, 0.8, 0.6, 0.45, 0.3)


def test_costs_are_met_by_allowed_widths_without_the_least_important_channels(request_of):
    groups, scores, limits, cost = request_of
    found = search(groups, scores, limits)
    full, least = cost(found.widths), found.least(cost)
    targets = [share * full for share in SHARES if share * full >= least]
    assert len(targets) > 1
    for target in targets:
        gone = found.by_cost(cost, target)
        left = left_by(gone, groups)
        assert (1 - TOLERANCE) * target <= cost(left) <= target
        for index, (each, width) in enumerate(zip(groups, left)):
            assert width in (each.width, *allowed_widths(each, each.width, limits))
            assert len(set(gone.get(index, ()))) == each.width - width
            if each.ratio is not None:
                assert (1 - each.ratio) * each.width <= width < each.width
            if index in gone:
                order = channel_order(each, torch.tensor(scores[index]).double())
                first = order[:, : len(gone[index]) // each.num_parts]
                assert set(gone[index]) == set(first.flatten().tolist())


def test_a_higher_ratio_takes_what_a_lower_one_takes_and_more(request_of):
    groups, scores, limits, _ = request_of
    found = search(groups, scores, limits)
    taken = [
        {(index, c) for index, channels in found.by_ratio(1 - share).items() for c in channels}
        for share in SHARES
    ]
    assert all(less <= more for less, more in pairwise(taken))
    assert len(taken[0]) < len(taken[-1])
    if limits.global_pruning and not limits.isomorphic:
        free = [each.width for each in groups if not each.frozen_reason and each.ratio is None]
        for share, channels in zip(SHARES, taken):
            lost = sum(groups[index].ratio is None for index, _ in channels)
            assert lost <= (1 - share) * sum(free) + 1e-6


def test_a_lower_cost_keeps_no_channel_that_a_higher_one_does_not():
    groups = [group(64), group(32), group(48)]
    random = torch.Generator().manual_seed(0)
    scores = [torch.rand(each.width, generator=random).tolist() for each in groups]
    found = search(groups, scores)
    widths = [left_by(found.by_cost(sum, target), groups) for target in range(144, 20, -1)]
    for before, after in pairwise(widths):
        assert sum(before) - sum(after) == 1
        assert all(b >= a for b, a in zip(before, after))
