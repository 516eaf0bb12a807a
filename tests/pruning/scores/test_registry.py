"""Importances: what they measure, and what measuring leaves behind."""

import pytest
import torch
import torch_pruning as tp

from blendprune.errors import ConfigError
from blendprune.pruning import (
    ChannelGraph,
    build_importance,
    prunable,
    score_groups,
)
from tests.helpers.groups import group_of

DATA_DRIVEN = ["surgeon", "taylor", "fisher", "hessian", "activation", "wanda"]


@pytest.mark.parametrize("name", ["magnitude", "lamp", "fpgm", "random", *DATA_DRIVEN])
def test_every_importance_scores_every_channel(blendmask, images, batches, name):
    model = blendmask("MODEL.FPN.OUT_CHANNELS", 128)
    with prunable(model):
        groups = [g for g in ChannelGraph(model, images).groups() if g.prunable]
        scores = score_groups(model, groups, build_importance(name), batches)
    assert [len(score) for score in scores] == [group.width for group in groups]
    assert all((score >= 0).all() for score in scores)
    assert all(p.grad is None for p in model.parameters())


def test_torch_prunings_own_data_driven_importance_gets_its_gradients(blendmask, images, batches):
    model = blendmask("MODEL.FPN.OUT_CHANNELS", 128)
    with prunable(model):
        groups = [g for g in ChannelGraph(model, images).groups() if g.prunable]
        scores = score_groups(model, groups, tp.importance.GroupTaylorImportance(), batches)
    assert all(score.isfinite().all() for score in scores)


def test_an_unknown_importance_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'L1' is not known; known are activation, bn_scale, f"):
        build_importance("L1")


@pytest.mark.parametrize("name", DATA_DRIVEN)
def test_a_channel_that_is_silent_scores_lowest(blendmask, images, batches, name):
    model = blendmask("MODEL.FCOS.NORM", "BN")
    block = model.backbone.bottom_up.res3[0]
    with torch.no_grad():
        block.conv1.norm.weight[5] = block.conv1.norm.bias[5] = 0
    with prunable(model):
        group = group_of(ChannelGraph(model, images).groups(), "backbone.bottom_up.res3.0.conv1")
        [score] = score_groups(model, [group], build_importance(name), batches)
    assert score[5] == 0
    assert score.min() == 0 and (score > 0).sum() > group.width / 2
