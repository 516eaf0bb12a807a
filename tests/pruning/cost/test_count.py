"""FLOPs, parameters and activations: fvcore's counts, whatever is in the image."""

import contextlib

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from blendprune.pruning import count_activations, count_flops, head_outputs
from blendprune.pruning.architectures import architecture_of
from blendprune.pruning.cost import count as counting
from blendprune.pruning.cost.count import count_costs
from blendprune.pruning.cost.regions import region_notes
from tests.helpers.small_net import SmallNet, small_inputs
from tests.zoo import tensors_of


@pytest.mark.parametrize("family", ["mask-fpn", "mask-c4", "cascade", "keypoint"])
def test_flops_do_not_depend_on_what_is_detected(build, images, family):
    model = build(family)
    assert not list(tensors_of(run_real(model, images)[0]["instances"].scores))[0].numel()
    nothing_found = count_flops(model, images)
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = -1.0
    assert count_flops(model, images) == nothing_found


def run_real(model, images):
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 2.0
    with torch.no_grad():
        return model(images)


def test_the_heads_count_for_as_many_regions_as_the_config_allows(build, images):
    def heads(*opts):
        model = build("mask-fpn", *opts)
        own = count_flops(model, images)
        return (
            architecture_of(model).region_limits(),
            sum(n for name, n in own.items() if name.startswith("roi_heads.box_")),
            sum(n for name, n in own.items() if name.startswith("roi_heads.mask_")),
        )

    limits, box, mask = heads()
    more, more_box, more_mask = heads(
        "MODEL.RPN.POST_NMS_TOPK_TEST", 100, "TEST.DETECTIONS_PER_IMAGE", 30
    )
    assert (limits, more) == ((50, 10), (100, 30))
    assert (more_box, more_mask) == (2 * box, 3 * mask)


@pytest.mark.parametrize("family", ["retinanet", "rpn-fpn", "rpn-c4"])
def test_the_count_is_fvcores_where_fvcore_can_trace(build, images, family):
    class Outputs(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, image):
            return tuple(head_outputs(self.model, [{"image": image}]))

    model = build(family)
    with torch.no_grad():
        analysis = FlopCountAnalysis(Outputs(model).eval(), images[0]["image"])
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        assert sum(count_flops(model, images).values()) == analysis.total()


def test_an_lstm_counts_its_products(images):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(3, 5, bidirectional=True)

        def forward(self, batched_inputs):
            return self.rnn(batched_inputs[0]["image"].flatten(1).t()[:7, None])

    steps, weights = 7, 4 * 5 * (3 + 5)
    assert sum(count_flops(Reader(), images).values()) == 2 * steps * weights


def test_each_image_costs():
    net = SmallNet(lambda net, x: net.a(x), a=nn.Conv2d(3, 4, 1))
    assert count_flops(net, 2 * small_inputs()) == {"": 0, "a": 2 * 4 * 3 * 64}


def test_the_innermost_module_that_runs_costs():
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    net = SmallNet(lambda net, x: net.inner(net.inner(x).repeat(1, 2, 1, 1)[:, :3]), inner=inner)
    assert count_flops(net, small_inputs()) == {
        "": 0,
        "inner": 0,
        "inner.0": 2 * 4 * 3 * 64,
        "inner.1": 2 * 2 * 4 * 64,
    }
    assert count_activations(net, small_inputs()) == {
        "": 0,
        "inner": 0,
        "inner.0": 2 * 4 * 64,
        "inner.1": 2 * 2 * 64,
    }


def test_counting_computes_nothing_and_leaves_no_hook():
    seen = []
    net = SmallNet(lambda net, x: seen.append(net.a(x)) or seen[-1], a=nn.Conv2d(3, 4, 1))
    count_flops(net, small_inputs())
    assert not seen[0].any() and seen[0].shape == (1, 4, 8, 8)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


class Distances(nn.Module):
    """Runs an operator that has no formula, and a product."""

    def forward(self, x):
        return torch.cdist(x[0, 0], x[0, 1]) @ x[0, 0]


def test_an_operator_without_a_formula_is_named_with_the_first_module_that_runs_it():
    net = SmallNet(lambda net, x: net.two(net.one(x).expand(1, 3, 8, 8)), one=Distances())
    net.two = Distances()
    counts = count_costs(net, small_inputs())
    [(name, module)] = counts.uncounted.items()
    assert "cdist" in name and module == "one"
    [note] = counts.notes()
    assert note.startswith(f"operator {name!r} (in one) has no FLOPs formula and counts as 0")
    assert f"register_flops({name!r}, formula)" in note
    assert counts.flops == {"": 0, "one": 8 * 8 * 8, "two": 8 * 8 * 8}


def test_a_module_that_fails_is_left_again():
    class Failing(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError

    def run(net, x):
        with contextlib.suppress(ZeroDivisionError):
            net.failing(x)
        return x[0] @ x[0]

    net = SmallNet(run, failing=Failing())
    assert count_flops(net, small_inputs()) == {"": 3 * 8 * 8 * 8, "failing": 0}


def test_numbers_of_double_precision_cost_the_same():
    net = SmallNet(lambda net, x: net.a(x.double()), a=nn.Conv2d(3, 4, 1).double())
    assert count_flops(net, small_inputs()) == {"": 0, "a": 4 * 3 * 64}


def test_two_regions_cost_twice_what_one_costs(build, images):
    found = []
    for count in (1, 2, 3):
        limits = "MODEL.RPN.POST_NMS_TOPK_TEST", count, "TEST.DETECTIONS_PER_IMAGE", 1
        own = count_flops(build("mask-fpn", *limits), images)
        found.append(sum(n for name, n in own.items() if name.startswith("roi_heads.box_")))
    assert found[0] > 0 and found == [found[0], 2 * found[0], 3 * found[0]]


@pytest.mark.parametrize("most", [100, 1])
def test_shapes_that_are_kept_serve_other_counts_and_leave_room_for_new_ones(monkeypatch, most):
    kept, found = {}, []
    monkeypatch.setattr(counting, "_RESULTS", kept)
    monkeypatch.setattr(counting, "_MOST_RESULTS", most)
    for width in (4, 8, 4):
        layers = nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, 2, 3))
        net = SmallNet(lambda net, x: net.layers(x), layers=layers)
        found.append(sum(count_flops(net, small_inputs()).values()))
    # Two convs of each width; the second count of a width needs nothing new.
    assert len(kept) == min(4, most)
    assert found == [64 * 4 * 3 + 36 * 2 * 4 * 9, 64 * 8 * 3 + 36 * 2 * 8 * 9, found[0]]


def test_large_heads_on_regions_say_how_many_the_flops_are_of(build, images):
    counts = count_costs(build("mask-fpn", "TEST.DETECTIONS_PER_IMAGE", 40), images)
    heads = {head.name: head for head in counts.regions}
    mask, box = heads["roi_heads.mask_head"], heads["roi_heads.box_head"]
    assert (mask.count, box.count) == (40, 50)
    own = {head: sum(n for x, n in counts.flops.items() if x.startswith(head)) for head in heads}
    assert mask.flops == own["roi_heads.mask_head"]
    share = mask.flops / sum(counts.flops.values())
    [note] = counts.region_notes()
    assert (
        share > 0.1 and f"40 regions an image in roi_heads.mask_head ({share:.0%} of all)" in note
    )
    assert "max_latency" in note
    assert region_notes([mask], 11 * mask.flops) == region_notes([], 1) == []
    [both] = region_notes([box, mask], box.flops + mask.flops, min_share=0)
    assert "50 regions an image in roi_heads.box_head" in both and " and 40 regions " in both


def test_whole_images_need_no_note_on_regions(build, images):
    assert count_costs(build("retinanet"), images).regions == []
