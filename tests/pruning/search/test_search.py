"""The choice of widths for a target."""

from types import SimpleNamespace

import pytest
import torch

from blendprune.pruning.search.search import TOLERANCE, Limits, Search


def group(width, block=1):
    return SimpleNamespace(
        root=f"{width}x{block}", width=width, slots=1, block=block, least=1, stays=False,
        ratio=None, aligned=False, kind=(),
    )  # fmt: skip


@pytest.mark.parametrize("target", [0.9, 0.83, 0.75, 0.7, 0.6, 0.55])
def test_a_group_of_large_steps_does_not_keep_the_others_from_the_target(target):
    """Its blocks are a tenth of the cost each, and cheap; single channels fill what they cannot."""
    groups = [group(80, block=16), group(64)]
    scores = [torch.linspace(0.1, 0.4, 80), torch.linspace(0.3, 1.0, 64)]
    search = Search(groups, scores, [80, 64], Limits())

    def cost(widths):
        return widths[0] / 80 / 2 + widths[1] / 64 / 2

    gone = search.by_cost(cost, target)
    left = [each.width - len(gone.get(index, ())) for index, each in enumerate(groups)]
    assert (1 - TOLERANCE) * target <= cost(left) <= target
    assert left[0] % 16 == 0
