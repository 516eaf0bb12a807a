"""Scores from weights."""

import pytest
import torch

from blendprune.errors import PruningError
from blendprune.pruning import (
    ChannelGraph,
    build_importance,
    prunable,
    prune,
    score_groups,
)
from tests.helpers.groups import group_of


def test_bn_scale_ranks_by_the_weights_of_the_norm(blendmask, images):
    model = blendmask("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0)
    with prunable(model):
        graph = ChannelGraph(model, images)
        group = group_of(graph.groups(), "backbone.bottom_up.res3.0.conv1")
        [score] = score_groups(model, [group], build_importance("bn_scale"))
        size = model.backbone.bottom_up.res3[0].conv1.norm.weight.detach().abs().double()
        torch.testing.assert_close(score, size / size.mean(), rtol=1e-5, atol=0)
        without = group_of(graph.groups(), "proposal_generator.fcos_head.cls_tower.0")
        with pytest.raises(PruningError, match="no BatchNorm on the channels of proposal"):
            score_groups(model, [without], build_importance("bn_scale"))


def test_bn_scale_refuses_frozen_batch_norm(blendmask, images):
    model = blendmask("MODEL.RESNETS.NORM", "FrozenBN")
    with pytest.raises(PruningError, match="found FrozenBN on the channels of .*: train with NORM"):
        prune(model, images, max_flops=0.7, importance="bn_scale")
