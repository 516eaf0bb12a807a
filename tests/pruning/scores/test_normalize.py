"""Scores divided by what a channel costs."""

from functools import partial

import pytest
import torch

from blendprune.errors import ConfigError
from blendprune.pruning import (
    ChannelGraph,
    CostModel,
    count_params,
    prunable,
    prune,
)
from blendprune.pruning.cost.count import count_costs
from blendprune.pruning.scores import (
    normalize_scores,
)
from tests.helpers.groups import group_of


@pytest.mark.parametrize("unit", ["flops", "params", "activations"])
def test_normalising_divides_by_what_a_cut_of_one_channel_frees(blendmask, images, unit):
    def total(model):
        if unit == "params":
            return count_params(model)
        return sum(getattr(count_costs(model, images), unit).values())

    for layer in ("backbone.bottom_up.res4.0.conv1", "backbone.fpn_lateral4"):
        model = blendmask("MODEL.FCOS.NORM", "BN", "MODEL.RESNETS.NORM", "BN")
        before, names = total(model), [name for name, _ in model.named_parameters()]
        with prunable(model):
            graph = ChannelGraph(model, images)
            groups = graph.groups()
            index = [g.root for g in groups].index(group_of(graph.groups(), layer).root)
            costs = CostModel(model, groups, count_costs(model, images), names)
            ones = [torch.ones(g.width) for g in groups]
            scores = normalize_scores(ones, groups, partial(costs.cost, unit))
            graph.prune(groups[index], [0])
        freed = before - total(model)
        assert 1 / scores[index][0].item() == pytest.approx(freed, rel=2e-3)


def test_normalising_by_flops_sends_the_costly_channels_first(blendmask, images):
    def equal(group):
        return torch.ones(len(group[0].idxs))

    kept = {}
    for unit in (None, "flops", "params"):
        model = blendmask("MODEL.FCOS.NORM", "BN", "MODEL.RESNETS.NORM", "BN")
        report = prune(model, images, max_flops=0.8, importance=equal, normalize=unit, rounds=1)
        kept[unit] = report.params["after"]
    # The costliest channels are those of large maps, which have the fewest weights.
    assert kept["flops"] > kept[None] and kept["flops"] > kept["params"]


def test_an_unknown_normaliser_is_refused(blendmask, images):
    with pytest.raises(ConfigError, match="known are flops, params, activations"):
        prune(blendmask(), images, max_flops=0.5, normalize="latency")
