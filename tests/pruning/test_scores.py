"""Importances: what they measure, and what measuring leaves behind."""

import pytest
import torch
import torch_pruning as tp
from torch import nn

from blendprune.errors import ConfigError
from blendprune.pruning import (
    ChannelGraph,
    build_importance,
    head_outputs,
    prunable,
    score_groups,
)
from blendprune.pruning.scores import accumulate_gradients, as_batches, channel_effect


def test_the_taylor_effect_is_the_slope_of_the_loss_as_a_channel_fades(blendmask, images):
    model = blendmask("MODEL.FCOS.NORM", "BN").double()
    model.normalizer = lambda image: (image.double() - 120) / 60
    with prunable(model):
        graph = ChannelGraph(model, images)
        _smooth_loss(model, images).backward()
        for root in ("backbone.bottom_up.res3.0.conv1", "backbone.fpn_lateral4"):
            group = next(g for g in graph.groups() if root in [m.layer for m in g.members])
            effect = channel_effect(group.handle)
            for channel in (0, group.width - 1):
                slope = _slope(model, group, channel, images)
                assert effect[channel].item() == pytest.approx(slope, rel=1e-3, abs=1e-7)


def _slope(model, group, channel, images, step=1e-6):
    """Derivative of the loss by a factor on all that reads the channel, by central difference."""
    readers = [
        (item.dep.target.module, item)
        for item in group.handle
        if item.dep.handler.__name__ == "prune_in_channels"
        and isinstance(item.dep.target.module, nn.Conv2d)
    ]
    losses = []
    for factor in (1 + step, 1 - step):
        kept = [(layer, layer.weight.detach().clone()) for layer, _ in readers]
        with torch.no_grad():
            for layer, item in readers:
                at = [i for i, root in zip(item.idxs, item.root_idxs) if root == channel]
                layer.weight[:, at] *= factor
            losses.append(_smooth_loss(model, images).item())
            for layer, weight in reversed(kept):
                layer.weight.copy_(weight)
    return (losses[0] - losses[1]) / (2 * step)


def _smooth_loss(model, images):
    return sum(output.square().mean() for output in head_outputs(model, images))


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_gradients_reach_frozen_stages_and_leave_no_trace(blendmask, batches, norm):
    model = blendmask("MODEL.RESNETS.NORM", norm, "MODEL.BACKBONE.FREEZE_AT", 5).train()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    outputs = next(m for m in model.modules() if hasattr(m, "moving_num_fg"))
    moving = outputs.moving_num_fg
    with prunable(model):
        accumulate_gradients(model, batches)
        stem = model.backbone.bottom_up.stem.conv1
        assert stem.weight.grad.abs().sum() > 0
        assert stem.norm.weight.grad is not None
        model.zero_grad(set_to_none=True)
    assert not stem.weight.requires_grad
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert all(module.training for module in model.modules() if isinstance(module, nn.Conv2d))
    assert outputs.moving_num_fg == moving


@pytest.mark.parametrize("name", ["magnitude", "taylor", "lamp", "fpgm", "random"])
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
    with pytest.raises(ConfigError, match="'L1' is not known; known are fpgm, lamp, magnitude, ra"):
        build_importance("L1")


def test_data_of_another_form_is_refused():
    with pytest.raises(ConfigError, match="holds no images"):
        as_batches([[]])
    with pytest.raises(ConfigError, match='lists of dicts with "image"'):
        as_batches([[torch.zeros(3, 4, 4)]])
