"""Scores from gradients: what they measure."""

import pytest
import torch
from torch import nn

from blendprune.pruning import (
    ChannelGraph,
    build_importance,
    head_outputs,
    prunable,
    score_groups,
)
from blendprune.pruning.scores import accumulate_gradients
from blendprune.pruning.scores.gradients import channel_effect
from tests.helpers.groups import group_of


def test_the_taylor_effect_is_the_slope_of_the_loss_as_a_channel_fades(blendmask, images):
    model = blendmask("MODEL.FCOS.NORM", "BN").double()
    model.normalizer = lambda image: (image.double() - 120) / 60
    with prunable(model):
        graph = ChannelGraph(model, images)
        _smooth_loss(model, images).backward()
        for root in ("backbone.bottom_up.res3.0.conv1", "backbone.fpn_lateral4"):
            group = next(g for g in graph.groups() if root in [m.layer for m in g.members])
            effect = channel_effect(group)
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


def test_fisher_is_half_the_squared_gradient_of_a_mask_on_the_coupled_group(blendmask, batches):
    model = blendmask("MODEL.FCOS.NORM", "BN")
    with prunable(model):
        # A residual stream has many readers; all of them share the mask.
        group = group_of(
            ChannelGraph(model, batches[0]).groups(), "backbone.bottom_up.res3.1.conv2"
        )
        assert len(group.readers) > 2
        importance = build_importance("fisher")
        importance.collect(model, [group], batches)

        mask = torch.ones(group.width, requires_grad=True)
        handles = [
            layer.register_forward_pre_hook(lambda _, x: (x[0] * mask.view(1, -1, 1, 1),))
            for layer in (side.layer for side in group.readers)
        ]
        expected = torch.zeros(group.width)

        def after_image():
            expected.add_(mask.grad.square() / 2)
            mask.grad = None

        accumulate_gradients(model, batches, after_image)
        for handle in handles:
            handle.remove()
    assert expected.min() > 0
    torch.testing.assert_close(importance(group), expected, rtol=1e-3, atol=0)


def test_the_hessian_sums_squares_of_every_image(blendmask, batches):
    model = blendmask("MODEL.FCOS.NORM", "BN")
    with prunable(model):
        group = group_of(
            ChannelGraph(model, batches[0]).groups(), "backbone.bottom_up.res3.0.conv1"
        )
        layers = [
            (item.dep.target.module, item.dep.handler.__name__)
            for item in group.handle
            if hasattr(item.dep.target.module, "weight")
        ]
        expected = torch.zeros(group.width)

        def after_image():
            for layer, handler in layers:
                squares = (layer.weight.detach() * layer.weight.grad).square()
                squares = squares.transpose(0, 1) if handler == "prune_in_channels" else squares
                expected.add_(squares.flatten(1).sum(1) if squares.dim() > 1 else squares)

        accumulate_gradients(model, batches, after_image)
        [score] = score_groups(model, [group], build_importance("hessian"), batches)
    assert len(layers) == 3
    torch.testing.assert_close(score.float(), expected / 4, rtol=1e-4, atol=0)
