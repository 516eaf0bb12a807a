"""Importances: what they measure, and what measuring leaves behind."""

from functools import partial

import pytest
import torch
import torch_pruning as tp
from torch import nn

from blendprune.errors import ConfigError, PruningError
from blendprune.pruning import (
    ChannelGraph,
    CostModel,
    build_importance,
    count_params,
    head_outputs,
    prunable,
    prune,
    score_groups,
)
from blendprune.pruning.cost.count import count_costs
from blendprune.pruning.scores import (
    accumulate_gradients,
    as_batches,
    channel_effect,
    normalize_scores,
    readers,
)


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


def test_data_of_another_form_is_refused():
    with pytest.raises(ConfigError, match="holds no images"):
        as_batches([[]])
    with pytest.raises(ConfigError, match='lists of dicts with "image"'):
        as_batches([[torch.zeros(3, 4, 4)]])


def _group(graph, layer):
    return next(
        g for g in graph.groups() if (layer, "out") in [(m.layer, m.role) for m in g.members]
    )


def test_fisher_is_half_the_squared_gradient_of_a_mask_on_the_coupled_group(blendmask, batches):
    model = blendmask("MODEL.FCOS.NORM", "BN")
    with prunable(model):
        # A residual stream has many readers; all of them share the mask.
        group = _group(ChannelGraph(model, batches[0]), "backbone.bottom_up.res3.1.conv2")
        assert len(readers(group.handle)) > 2
        importance = build_importance("fisher")
        importance.collect(model, [group.handle], batches)

        mask = torch.ones(group.width, requires_grad=True)
        handles = [
            layer.register_forward_pre_hook(lambda _, x: (x[0] * mask.view(1, -1, 1, 1),))
            for layer, _, _ in readers(group.handle)
        ]
        expected = torch.zeros(group.width)

        def after_image():
            expected.add_(mask.grad.square() / 2)
            mask.grad = None

        accumulate_gradients(model, batches, after_image)
        for handle in handles:
            handle.remove()
    assert expected.min() > 0
    torch.testing.assert_close(importance(group.handle), expected, rtol=1e-3, atol=0)


def test_the_hessian_sums_squares_of_every_image(blendmask, batches):
    model = blendmask("MODEL.FCOS.NORM", "BN")
    with prunable(model):
        group = _group(ChannelGraph(model, batches[0]), "backbone.bottom_up.res3.0.conv1")
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


def test_the_activation_is_the_mean_size_of_what_the_reader_sees(blendmask, batches):
    model = blendmask()
    seen = []
    with prunable(model):
        group = _group(ChannelGraph(model, batches[0]), "backbone.bottom_up.res3.0.conv1")
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
            assert score.sum().item() == pytest.approx(len(readers(group.handle)), rel=1e-6)


def test_scores_from_activations_need_images_alone(blendmask, images):
    for name in ("activation", "wanda"):
        report = prune(blendmask(), images, max_flops=0.7, importance=name, rounds=1, data=[images])
        assert report.flops["after"] <= 0.7 * report.flops["before"]


@pytest.mark.parametrize("name", DATA_DRIVEN)
def test_a_channel_that_is_silent_scores_lowest(blendmask, images, batches, name):
    model = blendmask("MODEL.FCOS.NORM", "BN")
    block = model.backbone.bottom_up.res3[0]
    with torch.no_grad():
        block.conv1.norm.weight[5] = block.conv1.norm.bias[5] = 0
    with prunable(model):
        group = _group(ChannelGraph(model, images), "backbone.bottom_up.res3.0.conv1")
        [score] = score_groups(model, [group], build_importance(name), batches)
    assert score[5] == 0
    assert score.min() == 0 and (score > 0).sum() > group.width / 2


def test_bn_scale_ranks_by_the_weights_of_the_norm(blendmask, images):
    model = blendmask("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0)
    with prunable(model):
        graph = ChannelGraph(model, images)
        group = _group(graph, "backbone.bottom_up.res3.0.conv1")
        [score] = score_groups(model, [group], build_importance("bn_scale"))
        size = model.backbone.bottom_up.res3[0].conv1.norm.weight.detach().abs().double()
        torch.testing.assert_close(score, size / size.mean(), rtol=1e-5, atol=0)
        without = _group(graph, "proposal_generator.fcos_head.cls_tower.0")
        with pytest.raises(PruningError, match="no BatchNorm on the channels of proposal"):
            score_groups(model, [without], build_importance("bn_scale"))


def test_bn_scale_refuses_frozen_batch_norm(blendmask, images):
    model = blendmask("MODEL.RESNETS.NORM", "FrozenBN")
    with pytest.raises(PruningError, match="found FrozenBN on the channels of .*: train with NORM"):
        prune(model, images, max_flops=0.7, importance="bn_scale")


@pytest.mark.parametrize("unit", ["flops", "params", "activations"])
def test_normalising_divides_by_what_a_cut_of_one_channel_frees(blendmask, images, unit):
    def total(model):
        if unit == "params":
            return count_params(model)
        return sum(count_costs(model, images)[unit].values())

    for layer in ("backbone.bottom_up.res4.0.conv1", "backbone.fpn_lateral4"):
        model = blendmask("MODEL.FCOS.NORM", "BN", "MODEL.RESNETS.NORM", "BN")
        before, names = total(model), [name for name, _ in model.named_parameters()]
        with prunable(model):
            graph = ChannelGraph(model, images)
            groups = graph.groups()
            index = [g.root for g in groups].index(_group(graph, layer).root)
            costs = CostModel(model, groups, count_costs(model, images), names)
            ones = [torch.ones(g.width) for g in groups]
            scores = normalize_scores(ones, groups, partial(costs.cost, unit))
            graph.cut(groups[index], [0])
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
