"""Peak memory: counted, predicted at other widths, and measured in a real forward."""

import copy

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from blendprune.pruning import (
    Architecture,
    ChannelGraph,
    CostModel,
    Stage,
    prunable,
    register_architecture,
)
from blendprune.pruning.architectures import ARCHITECTURES, architecture_of
from blendprune.pruning.cost.count import count_costs, total_costs
from blendprune.pruning.cost.memory import PeakMemory
from blendprune.pruning.tracing.hooks import evaluating
from tests.helpers.chain import Chain, chain_inputs, chain_memory
from tests.helpers.live_memory import LiveMemory
from tests.helpers.small_net import SmallNet, small_inputs


def counted(model, inputs):
    """Peak in bytes, as counted."""
    return total_costs(model, count_costs(model, inputs, memory=True))["memory"]


def measured(model, inputs):
    """Peak in bytes of a forward that really computes, with all regions that count."""
    with evaluating(model), EventStorage(), LiveMemory() as live:
        for stage in architecture_of(model).stages(inputs):
            stage.run(stage.count)
    return live.peak


def predicted(model, inputs):
    """A function: output width of each layer → peak in bytes."""
    with prunable(model):
        groups = ChannelGraph(model, inputs).groups()
        costs = CostModel(model, groups, count_costs(model, inputs, memory=True), ())

    def peak(layers):
        return costs.cost("memory", [layers[group.root] for group in groups])

    return peak


def small(run, **layers):
    return SmallNet(run, **layers).eval()


class TestAChain:
    @pytest.mark.parametrize("widths", [(60, 60), (30, 60), (60, 20), (7, 11)])
    def test_the_peak_is_that_of_its_widths(self, widths):
        assert counted(Chain(*widths).eval(), chain_inputs()) == chain_memory(*widths)
        peak = predicted(Chain().eval(), chain_inputs())
        first, second = widths
        found = peak({"first": first, "second": second, "predictor": 2})
        assert found == pytest.approx(chain_memory(first, second), rel=1e-12)

    def test_it_is_what_is_measured(self):
        assert measured(Chain().eval(), chain_inputs()) == chain_memory(60, 60)

    def test_each_image_counts(self):
        one = counted(Chain().eval(), chain_inputs())
        assert counted(Chain().eval(), 3 * chain_inputs()) == 3 * one

    def test_memory_is_counted_on_request_alone(self):
        model, inputs = Chain().eval(), chain_inputs()
        counts = count_costs(model, inputs)
        assert counts.moments is None and "memory" not in total_costs(model, counts)
        asked = count_costs(model, inputs, memory=True)
        assert (asked.flops, asked.activations) == (counts.flops, counts.activations)


MODELS = ["mask-fpn", "mask-c4", "retinanet", "keypoint", "panoptic"]


@pytest.fixture
def model_of(build, blendmask):
    """A function that builds a small model, which detects nothing where its decoding runs."""

    def make(family):
        model = blendmask() if family == "blendmask" else build(family)
        if family == "retinanet":
            model.test_score_thresh = 2.0
        return model

    return make


@pytest.mark.parametrize("family", ["blendmask", *MODELS])
def test_the_count_is_what_a_real_forward_has_in_memory(model_of, images, family):
    model = model_of(family)
    assert counted(model, images) == measured(model, images)


def predicted_and_pruned(model, images, share=3):
    """Prune a third of every group, or another share; returns the peak that was predicted."""
    with prunable(model):
        costs_of = count_costs(model, images, memory=True)
        graph = ChannelGraph(model, images)
        groups = graph.groups()
        costs = CostModel(model, groups, costs_of, ())
        widths = [group.width for group in groups]
        for index, group in enumerate(groups):
            if group.prunable:
                size = group.width // group.num_parts
                lost = size // share // group.block_size * group.block_size
                starts = range(0, group.width, size)
                gone = [start + i for start in starts for i in range(lost)]
                graph.prune(group, gone)
                widths[index] -= len(gone)
        return costs.cost("memory", widths)


@pytest.mark.parametrize("family", ["blendmask", "mask-fpn", "retinanet"])
def test_a_pruned_model_has_the_peak_that_was_predicted(model_of, images, family):
    model = model_of(family)
    dense = counted(model, images)
    found = predicted_and_pruned(model, images)
    assert found == pytest.approx(counted(model, images), rel=1e-9)
    assert found == pytest.approx(measured(model, images), rel=1e-9)
    assert found < 0.99 * dense


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mask-c4", "cascade", "resnext", "modulated", "group-norm"])
def test_other_models_have_the_predicted_peak_too(model_of, images, family):
    test_a_pruned_model_has_the_peak_that_was_predicted(model_of, images, family)


@pytest.mark.parametrize("family", [pytest.param("vitdet", marks=pytest.mark.slow), "mvit"])
def test_attention_that_loses_heads_has_the_predicted_peak(family):
    from detectron2.config import instantiate

    from tests.helpers import small_transformers

    config = small_transformers.config_of(family).model
    model = instantiate(config).eval()
    # Few regions, so that attention makes the peak.
    model.roi_heads.box_predictor.test_topk_per_image = 1
    model.proposal_generator.post_nms_topk = {True: 5, False: 5}
    images = [{"image": torch.rand(3, 64, 64)}]
    dense = counted(model, images)
    found = predicted_and_pruned(model, images, share=2)
    assert found == pytest.approx(counted(model, images), rel=1e-9)
    assert found < 0.6 * dense


class TestRegions:
    def test_the_heads_need_memory_for_as_many_as_the_config_allows(self, build, images):
        def model(most):
            opts = ("MODEL.RPN.POST_NMS_TOPK_TEST", 1, "TEST.DETECTIONS_PER_IMAGE", most)
            return build("mask-fpn", *opts)

        few, many = model(20), model(80)
        assert counted(few, images) == measured(few, images)
        assert counted(many, images) == measured(many, images) > 2 * measured(few, images)

    def test_a_head_that_runs_region_by_region_counts_in_full(self):
        class OneByOne(Architecture):
            @classmethod
            def matches(cls, model):
                return isinstance(model, Chain)

            def stages(self, batched_inputs, training_branches=False):
                def regions(count):
                    kept = [self.model(batched_inputs) for _ in range(count)]
                    return torch.cat(kept)

                return [Stage(regions, 5)]

        register_architecture(OneByOne)
        try:
            model, inputs = Chain(1, 1).eval(), chain_inputs()
            assert counted(model, inputs) == measured(model, inputs) == 2 * 5 * 2 * 64 * 4
        finally:
            ARCHITECTURES._obj_map.pop("OneByOne")


class TestDecoding:
    def test_what_depends_on_detections_does_not_count(self, build, images):
        model = build("retinanet")
        found = []
        for threshold in (0.0, 2.0):
            model.test_score_thresh = threshold
            found.append(counted(model, images))
        assert found[0] == found[1]
        model.test_score_thresh = 0.0
        assert measured(model, images) > 1.1 * found[0]

    def test_what_comes_before_it_counts(self):
        def run(net, x):
            resized = nn.functional.interpolate(net.a(x), scale_factor=4)
            found = resized[resized > 0]
            return found.repeat(9)

        net = small(run, a=nn.Conv2d(3, 2, 1))
        conv, resized = 2 * 64 * 4, 2 * 16 * 64 * 4
        # The comparison is of one byte a number; the conv's output is gone by then.
        assert conv < resized / 4
        assert counted(net, small_inputs()) == 3 * 64 * 4 + resized + resized // 4

    def test_a_layer_behind_it_counts(self):
        def run(net, x):
            x = net.a(x)
            return net.b(x * (x > x.mean().item()))

        net = small(run, a=nn.Conv2d(3, 2, 1), b=nn.Conv2d(2, 50, 1))
        assert counted(net, small_inputs()) > 50 * 64 * 4


# Nets with a tensor at the peak that one layer has made.
GROWING = {
    "a pooled map": lambda net, x: nn.functional.avg_pool2d(net.a(x), 1),
    "a resized map": lambda net, x: nn.functional.interpolate(net.a(x), scale_factor=4),
    "a padded map": lambda net, x: nn.functional.pad(net.a(x), (8, 8, 8, 8)),
    "a normalised map": lambda net, x: net.norm(net.a(x)),
    "a gated map": lambda net, x: net.a(x) * x.mean(1, keepdim=True).sigmoid(),
    "maps side by side": lambda net, x: torch.cat([net.a(x), net.a(x)], 1),
    "maps one after the other": lambda net, x: torch.cat([net.a(x), net.a(x)], 3),
    "stacked maps": lambda net, x: torch.stack([net.a(x), net.a(x)]),
    "a map in other order": lambda net, x: net.a(x).permute(0, 2, 3, 1).contiguous(),
    "a part of a map": lambda net, x: net.a(x)[:, :, 2:].contiguous(),
    "maps that are written into one": lambda net, x: _written(net.a(x)),
}


def _written(x):
    found = x.new_zeros(5, *x.shape[1:])
    for place in range(5):
        found[torch.tensor([place])] = x
    return found


@pytest.mark.parametrize("kind", GROWING)
def test_tensors_grow_with_the_layer_that_made_them(kind):
    def net(width):
        layers = {"a": nn.Conv2d(3, width, 1), "norm": nn.BatchNorm2d(width)}
        return small(GROWING[kind], **layers)

    narrow, wide = (_proportional(net(width), width) for width in (8, 20))
    assert narrow == wide and narrow.keys() == {"a", ""}
    # What does not grow is less than one channel of a map.
    assert narrow[""] <= 4 * 64 * 4


def _proportional(net, width):
    """Bytes in the largest moment, of the layer by channel."""
    moments = count_costs(net, small_inputs(), memory=True).moments
    largest = max(moments, key=lambda moment: sum(moment.values()))
    return {owner: size / width if owner else size for owner, size in largest.items()}


CONSTANT = {
    "what an unknown operator makes": lambda net, x: net.a(x).sum(1).repeat(1, 8, 1),
    "some channels of two layers": lambda net, x: torch.cat([net.a(x), net.b(x)], 1)[:, 2:].clone(),
    "a product of two maps": lambda net, x: net.a(x)[0] @ net.a(x)[0],
}


@pytest.mark.parametrize("kind", CONSTANT)
def test_what_no_rule_knows_is_constant(kind):
    net = small(CONSTANT[kind], a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(3, 8, 1))
    last = count_costs(net, small_inputs(), memory=True).moments[-1]
    assert last[""] > 3 * 64 * 4


class TestTheLargestOfMoments:
    SIDES = {"a": (8, [(0, 1)]), "b": (10, [(1, 1)]), "c": (16, [(0, 2)]), "d": (5, [])}
    WIDTHS = (8, 10)

    @pytest.fixture
    def moments(self):
        random = np.random.default_rng(0)
        owners = [*self.SIDES, ""]
        return [
            {owner: int(random.integers(1, 1000)) for owner in random.choice(owners, 3, False)}
            for _ in range(200)
        ]

    def test_it_is_the_largest_at_all_widths(self, moments):
        memory = PeakMemory(moments, self.SIDES, self.WIDTHS)

        def kept(owner, lost):
            width, groups = self.SIDES.get(owner, (1, ()))
            return 1 - sum(lost[index] * each for index, each in groups) / width

        for a in range(9):
            for b in range(11):
                sums = [
                    sum(size * kept(owner, (a, b)) for owner, size in moment.items())
                    for moment in moments
                ]
                assert memory.peak((a, b)) == pytest.approx(max(sums), rel=1e-12)
                for limit in (0.5 * max(sums), max(sums) + 1e-6):
                    above = memory.excess((a, b), limit)
                    assert (above > 0) == (max(sums) > limit)

    def test_few_moments_can_be_the_largest(self, moments):
        assert len(PeakMemory(moments, self.SIDES, self.WIDTHS)._totals) < 20

    def test_it_falls_with_every_width(self, moments):
        memory = PeakMemory(moments, self.SIDES, self.WIDTHS)
        for a in range(8):
            for b in range(10):
                assert memory.peak((a + 1, b)) <= memory.peak((a, b)) >= memory.peak((a, b + 1))

    def test_nothing_needs_nothing(self):
        assert PeakMemory([], {}, [4]).peak([0]) == 0


def test_counting_leaves_the_model_as_it_was():
    model = Chain().eval()
    before = copy.deepcopy(model.state_dict())
    counted(model, chain_inputs())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
