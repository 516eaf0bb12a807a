"""Sensitivity: what is measured is what a cut does, once, and new targets need no more of it."""

import copy

import numpy as np
import pytest
import torch

from blendprune.errors import ConfigError
from blendprune.pruning import (
    ChannelGraph,
    GroupSensitivity,
    Sensitivity,
    count_flops,
    load_sensitivity,
    measure_sensitivity,
    prunable,
    prune,
    sensitivity_table,
)
from blendprune.pruning.graph.masking import masking
from blendprune.pruning.scores import mean_loss
from blendprune.pruning.search.digests import digest
from tests.helpers.blendmask_options import WIDE
from tests.helpers.chain import Chain, chain_inputs
from tests.helpers.state import remember, unchanged

NO_GROUP_NORM = ("MODEL.FCOS.NORM", "BN")


@pytest.fixture
def measured(blendmask, images, batches):
    """A small BlendMask and its sensitivity."""
    model = blendmask(*NO_GROUP_NORM)
    found = measure_sensitivity(
        model, images, data=batches, importance="magnitude", ratios=[0.3, 0.6]
    )
    return model, found


def test_masking_channels_gives_the_loss_that_removing_them_gives(blendmask, images, batches):
    model = blendmask(*NO_GROUP_NORM)
    with prunable(model):
        groups = [group for group in ChannelGraph(model, images).groups() if group.prunable]
        dense = mean_loss(model, batches)
    for index, group in enumerate(groups[::4]):
        channels = torch.arange(0, group.width, 3)
        other = copy.deepcopy(model)
        with prunable(model):
            groups = [group for group in ChannelGraph(model, images).groups() if group.prunable]
            with masking([(groups[4 * index], channels)]):
                masked = mean_loss(model, batches)
            assert mean_loss(model, batches) == dense
        with prunable(other):
            graph = ChannelGraph(other, images)
            groups = [group for group in graph.groups() if group.prunable]
            graph.prune(groups[4 * index], channels)
            cut = mean_loss(other, batches)
        assert masked == pytest.approx(cut, rel=1e-4), group.root
        assert masked != dense


def test_measuring_leaves_the_model_and_the_random_state_as_they_were(blendmask, images, batches):
    model = blendmask(*WIDE, "MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BACKBONE.FREEZE_AT", 2)
    before, random = remember(model), torch.get_rng_state()
    hooks = [list(m._forward_pre_hooks) for m in model.modules()]
    done = []
    found = measure_sensitivity(
        *(model, images),
        data=batches,
        importance="magnitude",
        ratios=[0.5],
        progress=lambda *step: done.append(step),
    )
    assert unchanged(model, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert hooks == [list(m._forward_pre_hooks) for m in model.modules()]
    assert done == [(i, len(found.groups)) for i in range(1, len(found.groups) + 1)]


def test_curves_rise_and_become_steeper(measured):
    model, found = measured
    assert found.images == 4 and found.loss > 0
    assert any(np.diff(group.loss).min() < 0 for group in found.groups.values())
    for group in found.groups.values():
        rises, marginal = group.rises(found.loss), group.marginal(found.loss)
        assert rises[0] >= 0 and rises == sorted(rises)
        assert marginal.shape == (group.width,)
        assert marginal[0] >= 0 and (np.diff(marginal) >= -1e-12).all()
        # Below the measured points, and through the last.
        below = np.cumsum(marginal)[np.array(group.masked) - 1]
        assert (below <= np.array(rises) + 1e-9).all()
        assert below[-1] == pytest.approx(rises[-1])
    table = sensitivity_table(found)
    assert "30 %" in table and "backbone.bottom_up.res3.0.conv1" in table


def test_the_hull_of_a_curve():
    curve = GroupSensitivity(8, [2, 4, 4, 6], [3.0, 2.5, 2.5, 5.0])
    assert curve.rises(1.0) == [2.0, 2.0, 2.0, 4.0]
    assert curve.marginal(1.0).tolist() == [0.5] * 4 + [1.0] * 4


def test_a_file_is_read_instead_of_measuring(blendmask, images, batches, tmp_path, monkeypatch):
    model = blendmask(*NO_GROUP_NORM)
    path = str(tmp_path / "new" / "sensitivity.json")
    how = {"importance": "magnitude", "path": path}
    found = measure_sensitivity(model, images, data=batches, ratios=[0.5], **how)
    assert load_sensitivity(path) == found

    def forward(self, batched_inputs):
        raise AssertionError("ran")

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "forward", forward)
        assert measure_sensitivity(model, **how) == found

    # New targets, without data, from the one file.
    for target in (0.7, 0.5):
        other = copy.deepcopy(model)
        report = prune(other, images, max_flops=target, importance="magnitude", sensitivity=path)
        assert 0.98 * target <= report.flops["after"] / report.flops["before"] <= target


def test_what_was_measured_on_something_else_is_refused(tmp_path):
    model, images = Chain(), chain_inputs()
    found = measure_sensitivity(
        model, images, data=[images], importance="magnitude", ratios=[0.3, 0.6]
    )
    path = str(tmp_path / "sensitivity.json")
    found.save(path)
    how = {"max_flops": 0.7, "sensitivity": path}
    with pytest.raises(ConfigError, match=r"other importance \(magnitude, not random\)"):
        prune(model, images, importance="random", **how)
    with pytest.raises(ConfigError, match=r"other ratios \(\[0.3, 0.6\], not \[0.5\]\)"):
        measure_sensitivity(model, images, importance="magnitude", ratios=[0.5], path=path)
    with pytest.raises(ConfigError, match="leave global_pruning True"):
        prune(model, images, importance="magnitude", global_pruning=False, **how)
    before = remember(model)
    with torch.no_grad():
        next(model.parameters()).flatten()[0] += 1
    with pytest.raises(ConfigError, match="sensitivity.json' was measured with other weights: mea"):
        prune(model, images, importance="magnitude", **how)
    model.load_state_dict(before[0])
    prune(model, images, importance="magnitude", **how)


def test_channels_that_have_no_effect_cost_nothing_and_go_first(blendmask, images, batches):
    model = blendmask(*NO_GROUP_NORM)
    silent = "backbone.bottom_up.res4.0.conv1"
    block = model.backbone.bottom_up.res4[0]
    with torch.no_grad():
        block.conv2.weight.zero_()  # it reads the channels of conv1 alone
    found = measure_sensitivity(model, images, data=batches, importance="magnitude", ratios=[0.5])
    assert found.groups[silent].rises(found.loss) == [0.0]
    assert sum(group.rises(found.loss)[0] > 0 for group in found.groups.values()) > 2

    # Masking some channels of a random model does good, which also counts as costing nothing.
    for root, group in found.groups.items():
        if root != silent:
            group.loss = [max(*group.loss, found.loss + 1e-3)]
    report = prune(
        model, images, max_flops=0.99, importance="magnitude", sensitivity=found, rounds=1
    )
    changed = {n for n in found.groups if report.layers[n]["after"] < report.layers[n]["before"]}
    assert changed == {silent}


def test_the_cheapest_loss_for_each_flop_goes_first(blendmask, images):
    model = blendmask(*NO_GROUP_NORM)
    with prunable(model):
        groups = [group for group in ChannelGraph(model, images).groups() if group.prunable]
    dear, cheap = "backbone.bottom_up.res3.0.conv1", "backbone.bottom_up.res4.0.conv1"
    curves = {g.root: GroupSensitivity(g.width, [g.width - 1], [1000.0]) for g in groups}
    for root, loss in ((dear, 2.0), (cheap, 1.5)):
        width = curves[root].width
        curves[root] = GroupSensitivity(width, [width // 2, width - 1], [1.0, loss])
    found = Sensitivity(digest(model), "magnitude", [0.5, 0.99], 1, 1.0, curves)
    how = {"importance": "magnitude", "rounds": 1}

    # What is left once half of both has gone, which is free, and then half of the cheap one's rest.
    given = {dear: 0.5, cheap: 0.75}
    other = copy.deepcopy(model)
    with prunable(other):
        graph = ChannelGraph(other, images)
        for group in graph.groups():
            if group.root in given:
                graph.prune(group, range(int(given[group.root] * group.width)))
    target = sum(count_flops(other, images).values()) / sum(count_flops(model, images).values())
    report = prune(model, images, max_flops=target * 1.0001, sensitivity=found, **how)
    changed = {root for root in curves if report.layers[root]["after"] < curves[root].width}
    assert changed == {dear, cheap}
    assert report.layers[dear]["after"] == 64 and report.layers[cheap]["after"] == 64
