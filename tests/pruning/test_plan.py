"""plan(): what it says is what prune() then does, and the model stays as it was."""

import json

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

import blendprune
from blendprune.errors import ConfigError, TargetUnreachable
from blendprune.pruning import count_flops, count_params, plan_table, prune
from blendprune.pruning.cost.count import count_costs, total_costs
from tests.helpers.blendmask_options import FROZEN, PANOPTIC, WIDE
from tests.helpers.state import remember, unchanged


@pytest.fixture
def planned(blendmask, images):
    """A function: a small BlendMask, and its plan."""

    def make(*opts, **how):
        model = blendmask(*opts)
        return model, blendprune.plan(model, images, **how)

    return make


def group_of(plan, layer):
    [group] = [
        g for g in plan.groups if any(m.layer == layer and m.role == "out" for m in g.members)
    ]
    return group


@pytest.mark.parametrize("opts", [WIDE, (*WIDE, *FROZEN), PANOPTIC])
def test_the_model_is_left_as_it_was(blendmask, images, opts):
    model = blendmask(*opts).train()
    model.backbone.eval()
    before, objects = remember(model), list(map(id, model.parameters()))
    buffers, flags = list(map(id, model.buffers())), [p.requires_grad for p in model.parameters()]
    blendprune.plan(model, images)
    assert unchanged(model, before)
    assert list(map(id, model.parameters())) == objects
    assert list(map(id, model.buffers())) == buffers
    assert [p.requires_grad for p in model.parameters()] == flags
    assert any(isinstance(m, FrozenBatchNorm2d) for m in model.modules()) == ("FrozenBN" in opts)


def test_it_is_the_models_cost_and_lists_each_layer(planned, images):
    model, plan = planned(*WIDE)
    assert plan.flops["now"] == sum(count_flops(model, images).values())
    scales = sum(p.numel() for name, p in model.named_parameters() if ".scales." in name)
    assert plan.params["now"] == count_params(model) == scales + sum(g.params for g in plan.groups)
    assert 0.9 * plan.flops["now"] < sum(g.flops for g in plan.groups) <= plan.flops["now"]
    convs = {name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert {m.layer for g in plan.groups for m in g.members if m.role == "out"} >= convs
    assert json.loads(json.dumps(plan.to_dict()))["flops"] == plan.flops


def test_the_memory_that_it_says_can_be_reached_can_be_reached(planned, images):
    model, plan = planned(*WIDE, round_to=1)
    now = total_costs(model, count_costs(model, images, memory=True))["memory"]
    assert plan.memory_mb["now"] == now / 1e6
    least = plan.memory_mb["min"] / plan.memory_mb["now"]
    assert 0.1 < least < 0.8
    how = {"importance": "magnitude", "rounds": 1, "round_to": 1}
    with pytest.raises(TargetUnreachable):
        blendprune.prune(model, images, max_memory=0.99 * least, **how)
    report = blendprune.prune(model, images, max_memory=1.001 * least, **how)
    assert report.memory_mb["after"] <= 1.001 * plan.memory_mb["min"]


@pytest.mark.parametrize("how", [{}, {"round_to": 24}, {"max_pruning_ratio": 0.4}])
def test_what_it_says_can_be_reached_can_be_reached(planned, images, how):
    how = {"round_to": 1, **how}
    model, plan = planned(*WIDE, **how)
    least = plan.flops["min"] / plan.flops["now"]
    with pytest.raises(TargetUnreachable):
        prune(model, images, max_flops=0.97 * least, importance="magnitude", rounds=1, **how)
    prune(model, images, max_flops=least * 1.0001, importance="magnitude", rounds=1, **how)
    after = {g.root: g.width for g in blendprune.plan(model, images).groups}
    saving = [g for g in plan.groups if "seg_head" not in g.root]
    assert {g.root: after[g.root] for g in saving} == {g.root: g.min_width for g in saving}


def test_widths_come_in_steps_and_stays_has_a_reason(planned):
    _, plan = planned(*WIDE, round_to=48)
    tower = group_of(plan, "proposal_generator.fcos_head.cls_tower.0")  # 128 wide, GN(32)
    assert (tower.width, tower.min_width, tower.max_width, tower.step) == (128, 96, 96, 96)
    stem = group_of(plan, "backbone.bottom_up.stem.conv1")
    assert (stem.width, stem.min_width, stem.max_width, stem.step) == (64, 48, 48, 48)
    logits = group_of(plan, "proposal_generator.fcos_head.cls_logits")
    assert (logits.frozen_reason, logits.min_width, logits.step) == (
        "prediction layer",
        logits.width,
        0,
    )
    _, plan = planned(*WIDE, round_to=256)
    stem = group_of(plan, "backbone.bottom_up.stem.conv1")
    assert stem.frozen_reason.startswith("no smaller width is allowed") and stem.step == 0


def test_the_rounding_is_named_and_narrow_layers_are_free(planned, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    _, plan = planned(*WIDE)
    assert plan.to_dict()["round_to"] == {
        "multiple": 16,
        "auto": True,
        "reason": "AVX-512, float32",
    }
    res3 = group_of(plan, f"{RES3}.0.conv1")
    assert (res3.width, res3.min_width, res3.max_width, res3.step) == (128, 16, 112, 16)
    stem = group_of(plan, "backbone.bottom_up.stem.conv1")
    assert (stem.width, stem.min_width, stem.max_width, stem.step) == (64, 7, 63, 1)
    assert "widths: multiples of 16 (auto: AVX-512, float32)" in plan_table(plan).splitlines()
    # prune reaches what free widths reach.
    assert plan.flops["min"] == planned(*WIDE, round_to=1)[1].flops["min"]


def test_a_member_that_is_ignored_is_named(planned):
    _, plan = planned(*WIDE, ignored_layers=["*.res3.1.conv2"])
    group = group_of(plan, "backbone.bottom_up.res3.0.conv2")
    assert group.frozen_reason == (
        "ignored by '*.res3.1.conv2' (backbone.bottom_up.res3.1.conv2, 1 of 3 layers)"
    )
    assert group.min_width == group.width


def test_what_cannot_be_followed_is_told(blendmask, images):
    class Odd(nn.Module):
        def __init__(self, plain, spare):
            super().__init__()
            self.plain, self.spare = plain, spare

        def forward(self, x):
            return torch.cumsum(self.plain(x), 1)

    model = blendmask(*WIDE)
    block = model.backbone.bottom_up.res3[0]
    block.conv1 = Odd(block.conv1, nn.Conv2d(3, 3, 1))
    plan = blendprune.plan(model, images)
    assert group_of(plan, "backbone.bottom_up.res3.0.conv1.plain").frozen_reason.startswith(
        "unknown operator CumsumBackward0"
    )
    assert any("conv1.spare: nothing was seen to run it" in note for note in plan.notes)
    table = plan_table(plan)
    assert "unknown operator" in table and "conv1.spare" in table
    assert "\nmemory: peak of the activation tensors that are alive together in one " in table
    assert any(line.startswith("memory (MB) ") for line in table.splitlines())


RES3 = "backbone.bottom_up.res3"


def test_layers_lose_the_ratio_that_is_asked_of_them(planned, images):
    ratios = {f"{RES3}.*": 0.5, f"{RES3}.0.conv1": 0.25, f"{RES3}.1.conv1": 0}
    model, plan = planned(*WIDE, pruning_ratio_dict=ratios)
    for target in ({"max_flops": 0.6}, {"max_params": 0.6, "rounds": 2}, {"pruning_ratio": 0.3}):
        model, _ = planned(*WIDE)
        how = {"importance": "magnitude", "pruning_ratio_dict": ratios, "rounds": 1, **target}
        report = prune(model, images, **how)
        widths = {
            layer: report.layers[f"{RES3}.{layer}"]["after"]
            for layer in ("0.conv1", "1.conv1", "0.conv2", "1.conv2")
        }
        assert widths == {"0.conv1": 96, "1.conv1": 128, "0.conv2": 64, "1.conv2": 64}
        for kind in ("flops", "params"):
            if f"max_{kind}" in target:
                sizes = getattr(report, kind)
                assert 0.588 <= sizes["after"] / sizes["before"] <= 0.6
    for layer in widths:
        group = group_of(plan, f"{RES3}.{layer}")
        assert (group.min_width, group.max_width) == (widths[layer], widths[layer])
    assert "pruning ratio 0" in group_of(plan, f"{RES3}.1.conv1").frozen_reason


def test_the_last_entry_counts_and_ignored_layers_count_more(planned):
    _, plan = planned(*WIDE, pruning_ratio_dict=[(f"{RES3}.0.conv1", 0.25), (f"{RES3}.*", 0.5)])
    assert group_of(plan, f"{RES3}.0.conv1").min_width == 64
    # Of a group, too: whichever member it names.
    both = [(f"{RES3}.0.conv2", 0.25), (f"{RES3}.1.conv2", 0.5)]
    assert group_of(planned(*WIDE, pruning_ratio_dict=both)[1], f"{RES3}.0.conv2").min_width == 64
    assert (
        group_of(planned(*WIDE, pruning_ratio_dict=both[::-1])[1], f"{RES3}.0.conv2").min_width
        == 96
    )
    _, plan = planned(*WIDE, pruning_ratio_dict=both, ignored_layers=[f"{RES3}.0.conv2"])
    assert group_of(plan, f"{RES3}.0.conv2").min_width == 128


def test_a_pattern_that_names_some_members_of_a_group_is_told(planned, images):
    model, plan = planned(*WIDE, pruning_ratio_dict={f"{RES3}.1.conv2": 0.5})
    told = [note for note in plan.notes if f"{RES3}.1.conv2, 1 of 3 layers" in note]
    assert len(told) == 1 and "loses 50%" in told[0]
    report = prune(
        model, images, max_flops=0.7, importance="magnitude", rounds=1,
        pruning_ratio_dict={f"{RES3}.1.conv2": 0.5},
    )  # fmt: skip
    assert told[0] in report.notes


def test_a_ratio_beyond_the_least_width_is_told(planned):
    tower = "proposal_generator.fcos_head.cls_tower.0"
    _, plan = planned(*WIDE, pruning_ratio_dict={tower: 0.8})
    assert group_of(plan, tower).min_width == 64
    assert any(f"{tower}: keeps 64 of 128 channels" in note for note in plan.notes)


BAD = {
    "no module": ({"nobody": 0.5}, "'nobody', which is no module"),
    "not below 1": ({"*": 1.0}, "below 1 for '\\*', got 1.0"),
    "a word": ({"*": "half"}, "got 'half'"),
    "no pair": (["*"], "write \\[pattern, ratio\\]"),
    "above the limit": ({"*": 0.95}, "above max_pruning_ratio 0.9"),
    "nothing to lose": ({"*.cls_logits": 0.5}, "no layer it names can lose channels: prediction"),
    "no layer": ({"*.res3.0.activation": 0.5, "*.fcos_head.scales.0": 0.5}, "no "),
}


@pytest.mark.parametrize("kind", BAD)
def test_ratios_that_cannot_hold_are_refused_and_change_nothing(blendmask, images, kind):
    ratios, words = BAD[kind]
    model = blendmask(*WIDE)
    before = remember(model)
    with pytest.raises(ConfigError, match=words):
        blendprune.plan(model, images, pruning_ratio_dict=ratios)
    with pytest.raises(ConfigError, match=words):
        prune(model, images, max_flops=0.5, importance="magnitude", pruning_ratio_dict=ratios)
    assert unchanged(model, before)


def test_ratios_that_leave_less_than_the_target_are_refused(blendmask, images):
    model = blendmask(*WIDE)
    before = remember(model)
    with pytest.raises(TargetUnreachable, match="pruning_ratio_dict alone leaves 0") as raised:
        prune(
            model, images, max_flops=0.8, importance="magnitude",
            pruning_ratio_dict={"backbone": 0.7},
        )  # fmt: skip
    assert unchanged(model, before)
    report = prune(
        model, images, max_flops=raised.value.reachable * 1.001, importance="magnitude",
        pruning_ratio_dict={"backbone": 0.7},
    )  # fmt: skip
    assert report.flops["after"] <= 1.001 * raised.value.reachable * report.flops["before"]


def test_plan_and_prune_say_for_how_many_regions_the_flops_are(build, images):
    model = build("mask-fpn", "TEST.DETECTIONS_PER_IMAGE", 40)
    plan = blendprune.plan(model, images)
    [note] = [note for note in plan.notes if "40 regions an image in roi_heads.mask_head" in note]
    assert note in plan_table(plan)
    report = prune(model, images, max_flops=0.8, importance="magnitude", rounds=1)
    assert note in report.notes
