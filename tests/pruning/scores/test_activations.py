"""Scores from activations."""

import pytest
import torch

from blendprune.pruning import (
    ChannelGraph,
    build_importance,
    head_outputs,
    prunable,
    prune,
    score_groups,
)
from tests.helpers.groups import group_of


def test_the_activation_is_the_mean_size_of_what_the_reader_sees(blendmask, batches):
    model = blendmask()
    seen = []
    with prunable(model):
        group = group_of(
            ChannelGraph(model, batches[0]).groups(), "backbone.bottom_up.res3.0.conv1"
        )
        [score] = score_groups(model, [group], build_importance("activation"), batches)
        reader = model.backbone.bottom_up.res3[0].conv2
        handle = reader.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        with torch.no_grad():
            for batch in batches:
                head_outputs(model, batch)
        handle.remove()
    mean = torch.cat(seen).abs().mean((0, 2, 3)).double()
    torch.testing.assert_close(score, mean / mean.mean(), rtol=1e-5, atol=1e-8)


def test_wanda_shares_out_the_energy_of_each_reader(blendmask, batches):
    model = blendmask()
    with prunable(model):
        groups = [g for g in ChannelGraph(model, batches[0]).groups() if g.prunable]
        scores = score_groups(model, groups, build_importance("wanda"), batches)
        for group, score in zip(groups, scores):
            assert score.sum().item() == pytest.approx(len(group.readers), rel=1e-6)


def test_scores_from_activations_need_images_alone(blendmask, images):
    for name in ("activation", "wanda"):
        report = prune(blendmask(), images, max_flops=0.7, importance=name, rounds=1, data=[images])
        assert report.flops["after"] <= 0.7 * report.flops["before"]
