"""Reconstruction: exact where it can be, better where it cannot, and never at the model's cost."""

import copy
import os
import resource

import pytest
import torch
from detectron2.layers import CycleBatchNormList
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from blendprune.pruning import ChannelGraph, prunable, prune
from blendprune.pruning.graph.kept_entries import KeptEntries
from blendprune.pruning.graph.outputs import head_outputs
from blendprune.pruning.reconstruction import Reconstruction, reconstruction, solve
from blendprune.pruning.reconstruction import output_cache as replay
from blendprune.pruning.reconstruction.solve import ridge_regression
from blendprune.pruning.reconstruction.sums import Sums
from blendprune.pruning.search.stages import StageSeconds
from blendprune.pruning.tracing.hooks import evaluating
from tests.helpers.outputs import predictions_of
from tests.helpers.slow import slow_but
from tests.helpers.small_zoo import FAMILIES


@pytest.mark.parametrize("count", [40, 5], ids=["more rows", "more columns"])
def test_ridge_regression_minimises_what_it_says(count, monkeypatch):
    monkeypatch.setattr(solve, "_BLOCK", 16)
    torch.manual_seed(0)
    x, y, ridge = torch.randn(count, 3, 8).double(), torch.randn(count, 3, 2).double(), 0.1
    which = torch.arange(count) % 2
    change, shifts = ridge_regression(x, y, which, ridge)
    change, shifts = change.clone().requires_grad_(), shifts.clone().requires_grad_()
    means = torch.stack([x[which == number].mean(0) for number in range(2)])
    spread = (x - means[which]).square().sum((0, 2)) / x.shape[2]
    error = (torch.einsum("pgi,goi->pgo", x, change) + shifts[which] - y).square().sum()
    loss = error + ridge * (spread[:, None, None] * change.square()).sum()
    for gradient in torch.autograd.grad(loss, (change, shifts)):
        assert gradient.abs().max() < 1e-8


def test_a_regression_without_shifts_shifts_nothing():
    x = torch.randn(20, 1, 3)
    truth = torch.randn(1, 2, 3)
    change, shifts = ridge_regression(x, torch.einsum("pgi,goi->pgo", x, truth), None, 1e-9)
    assert torch.allclose(change, truth, atol=1e-4)
    assert not shifts.numel()


class TestSums:
    @staticmethod
    def _seen(use):
        seen = []
        with Sums(lambda name, total, other: seen.append((name, total, other))) as sums:
            a, b = torch.ones(2), torch.full((2,), 2.0)
            sums.made(a, "a")
            sums.made(b, "b")
            use(a, b)
        return seen

    def test_a_sum_is_one_of_the_layer_that_ran_last(self):
        [(name, total, other)] = self._seen(lambda a, b: a + b)
        assert (name, total.tolist(), other.tolist()) == ("b", [3, 3], [1, 1])

    def test_what_is_added_in_place_is_seen_as_it_was(self):
        def use(a, b):
            a += b

        [(name, total, other)] = self._seen(use)
        assert (name, total.tolist(), other.tolist()) == ("b", [3, 3], [1, 1])

    def test_what_is_written_over_is_another_tensor(self):
        def use(a, b):
            b.relu_()
            return a + b

        assert [name for name, _, _ in self._seen(use)] == ["a"]

    def test_a_broadcast_or_a_number_makes_no_sum(self):
        assert self._seen(lambda a, b: (a + 1, b + torch.ones(1))) == []


class Residual(nn.Module):
    """Convs, two of them added, and a grouped one behind; takes detectron2's inputs."""

    def __init__(self, norm):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = norm(8)
        self.branch = nn.Conv2d(8, 8, 1, bias=False)
        self.branch_norm = norm(8)
        self.shortcut = nn.Conv2d(8, 8, 1)
        self.grouped = nn.Conv2d(8, 6, 3, groups=2)
        self.predictor = nn.Conv2d(6, 2, 1)

    def forward(self, batched_inputs):
        x = torch.stack([each["image"] for each in batched_inputs])
        x = self.norm(self.stem(x)).relu()
        x = (self.branch_norm(self.branch(x)) + self.shortcut(x)).relu()
        return self.predictor(self.grouped(x).relu())


@pytest.fixture
def some_batches():
    generator = torch.Generator().manual_seed(5)
    return [
        [{"image": torch.randn(3, 12, 12, generator=generator)} for _ in range(2)] for _ in range(3)
    ]


def copies(model):
    """Make every second half of the stem's channels a copy of the first."""
    with torch.no_grad():
        for tensor in (*model.stem.state_dict().values(), *model.norm.state_dict().values()):
            if tensor.ndim:
                tensor[4:] = tensor[:4]
    return model


def cut(model, batches, doomed, reconstruct=True):
    """Remove channels of the group of a layer; reconstruct what is left."""
    kept = KeptEntries()
    made = Reconstruction(model, batches) if reconstruct else None
    with prunable(model):
        graph = ChannelGraph(model, batches[0])
        for root, channels in doomed.items():
            [group] = [g for g in graph.groups() if g.root == root]
            graph.prune(group, channels, kept)
    if reconstruct:
        made(model, kept, StageSeconds())


def outputs(model, batches):
    with evaluating(model):
        return torch.cat([model(batch) for batch in batches])


def test_what_redundant_channels_did_is_given_to_their_copies(some_batches, monkeypatch):
    monkeypatch.setattr(reconstruction, "_RIDGE", 1e-9)
    model = copies(Residual(nn.BatchNorm2d))
    fresh = [[{"image": torch.randn(3, 12, 12)}]]
    dense = outputs(model, fresh)
    cut_only = copy.deepcopy(model)
    cut(cut_only, some_batches, {"stem": range(4, 8)}, reconstruct=False)
    cut(model, some_batches, {"stem": range(4, 8)})
    # On images that it has not seen.
    assert not torch.allclose(outputs(cut_only, fresh), dense, atol=1e-2)
    assert torch.allclose(outputs(model, fresh), dense, atol=1e-3)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda width: nn.GroupNorm(2, width)])
def test_a_model_that_lacks_nothing_stays_as_it_is(some_batches, norm):
    model = Residual(norm)
    before = copy.deepcopy(model.state_dict())
    Reconstruction(model, some_batches)(model, KeptEntries(), StageSeconds())
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, before[name], atol=1e-4), name


@pytest.mark.parametrize("behind", [[], [nn.BatchNorm2d(8)], [nn.BatchNorm2d(8, affine=False)]])
def test_a_layer_behind_a_sum_makes_good_the_error_of_the_other_path(some_batches, behind):
    """A shift of the branch is no cut, but an error that the shortcut can make good."""
    model = Residual(nn.BatchNorm2d)
    model.shortcut = nn.Sequential(model.shortcut, *behind)
    dense = outputs(model, some_batches)
    made = Reconstruction(model, some_batches)
    # The shortcut runs last, and sees what the branch did.
    with torch.no_grad():
        model.branch_norm.bias += 0.5
    broken = (outputs(model, some_batches) - dense).abs().max()
    made(model, KeptEntries(), StageSeconds())
    assert (outputs(model, some_batches) - dense).abs().max() < 0.01 * broken


class Levels(nn.Module):
    """A conv that three levels share, each with statistics of its own, as RetinaNet's head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.offsets = torch.zeros(3)
        self.shared = nn.Conv2d(8, 8, 1)
        self.norms = CycleBatchNormList(3, num_features=8)
        self.predictor = nn.Conv2d(8, 2, 1)
        for number, norm in enumerate(self.norms):
            norm.running_mean += number

    def forward(self, batched_inputs):
        x = torch.stack([each["image"] for each in batched_inputs])
        levels = [x, x[:, :, ::2, ::2], x[:, :, ::4, ::4]]
        seen = [self.stem(x).relu() + offset for x, offset in zip(levels, self.offsets)]
        levels = [self.norms(self.shared(x)) for x in seen]
        return torch.cat([self.predictor(x.relu()).flatten() for x in levels])


def test_each_level_makes_good_its_own_shift(some_batches):
    model = Levels()
    dense = outputs(model, some_batches)
    made = Reconstruction(model, some_batches)
    # What no layer before the shared one can make good.
    model.offsets = torch.tensor([1.0, -1.0, 2.0])
    assert not torch.allclose(outputs(model, some_batches), dense, atol=0.1)
    made(model, KeptEntries(), StageSeconds())
    assert torch.allclose(outputs(model, some_batches), dense, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_levels_norms_are_in_turn_afterwards_whatever_the_batches(some_batches, count):
    model = Levels()
    cut(model, some_batches[:count], {"stem": range(2)})
    assert model.norms._pos == 0


def test_weights_of_before_are_not_written_into(some_batches):
    model = Residual(nn.BatchNorm2d)
    held = {name: (p, p.detach().clone()) for name, p in model.named_parameters()}
    buffers = {name: (b, b.clone()) for name, b in model.named_buffers()}
    cut(model, some_batches, {"stem": range(4)})
    assert all(torch.equal(a, b) for a, b in (*held.values(), *buffers.values()))
    assert not torch.equal(model.predictor.weight, held["predictor.weight"][0])


def test_a_failure_after_a_reconstruction_leaves_the_model_as_it_was(blendmask, batches):
    model = blendmask()
    before = copy.deepcopy(model.state_dict())

    def fail(level, report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(model, data=batches, max_flops=0.5, levels=[0.7], rounds=1, on_level=fail)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_what_is_replayed_is_what_would_be_computed(blendmask, batches, monkeypatch):
    found = []
    for budget, free in ((1 << 30, 8 << 30), (0, 8 << 30), (1 << 30, 0)):
        monkeypatch.setattr(replay, "_BUDGET", budget)
        monkeypatch.setattr(replay, "_free_memory", lambda free=free: free)
        torch.manual_seed(0)
        model = blendmask()
        prune(model, data=batches[:1], importance="magnitude", max_flops=0.5, rounds=1)
        found.append(model.state_dict())
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


def test_one_round_computes_each_layer_once(blendmask, batches, monkeypatch):
    """A head that runs on every level of the pyramid is refit layer by layer, too."""
    model = blendmask("MODEL.FCOS.NORM", "BN")
    one = _conv_flops(lambda: outputs_of_all_branches(model, batches[0][:1]))
    found = []
    refit = Reconstruction.__call__
    monkeypatch.setattr(
        Reconstruction,
        "__call__",
        lambda *args: found.append(_conv_flops(lambda: refit(*args))),
    )
    prune(model, data=batches, importance="magnitude", max_flops=0.9, rounds=1)
    count = sum(map(len, batches))
    # Less than the dense forward of each image; each layer would cost half a forward otherwise.
    assert 0.4 * count * one < found[0] < count * one


def outputs_of_all_branches(model, batch):
    with evaluating(model):
        return head_outputs(model, batch)


def _conv_flops(run):
    with FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts()["Global"]
    return sum(count for op, count in counts.items() if "conv" in str(op))


class Recurrent(nn.Module):
    """Two convs that run in turns, twice; takes detectron2's inputs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.predictor = nn.Conv2d(8, 2, 1)

    def forward(self, batched_inputs):
        x = self.stem(torch.stack([each["image"] for each in batched_inputs]))
        for _ in range(2):
            x = self.b(self.a(x.relu()).relu())
        return self.predictor(x)


def test_a_layer_behind_itself_sees_what_the_layers_between_give(some_batches, monkeypatch):
    torch.manual_seed(0)
    model, found = Recurrent(), []
    on = replay.OutputCache.on
    for how in (on, lambda cache, batch, blank: on(cache, batch, False)):
        monkeypatch.setattr(replay.OutputCache, "on", how)
        pruned = copy.deepcopy(model)
        made = Reconstruction(pruned, some_batches)
        with torch.no_grad():
            pruned.stem.weight += 0.1
        made(pruned, KeptEntries(), StageSeconds())
        assert not torch.equal(pruned.b.weight, model.b.weight)
        found.append(pruned.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_as_many_images_take_part_as_have_their_features_in_memory(some_batches, monkeypatch):
    model = Residual(nn.BatchNorm2d)
    everything = Reconstruction(model, some_batches)
    assert [len(batch) for batch in everything.batches] == [1] * 6
    with prunable(model), evaluating(model):
        of_one = everything._bytes_per_image(model, (some_batches[0][:1], None))
    # Stem, two branches or the grouped conv, in float32; no more than all layers.
    assert 8 * 144 * 4 <= of_one <= (3 * 8 * 144 + 6 * 100 + 2 * 100) * 4
    monkeypatch.setattr(reconstruction, "_BUDGET", 3 * of_one)
    some = Reconstruction(model, some_batches)
    images = [image["image"] for batch in some_batches for image in batch]
    assert [[x is batch[0]["image"] for x in images].index(True) for batch in some.batches] == [
        0,
        2,
        4,
    ]
    monkeypatch.setattr(reconstruction, "_BUDGET", 1)
    assert len(Reconstruction(model, some_batches).batches) == 1


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="Linux says how much is free")
def test_features_are_kept_in_a_quarter_of_the_free_memory(monkeypatch):
    free = replay._free_memory()
    assert 0 < free < 1 << 50
    limit, most = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (used + (64 << 20), most))
    assert replay._free_memory() <= 128 << 20
    assert replay.OutputCache(nn.Linear(1, 1), [])._budget <= 32 << 20


def test_no_data_or_no_wish_means_no_reconstruction(blendmask, images, batches, monkeypatch):
    class Asked(KeyboardInterrupt):
        pass

    def refuse(*args):
        raise Asked

    monkeypatch.setattr(Reconstruction, "__init__", refuse)
    prune(blendmask(), images, importance="magnitude", max_flops=0.7, rounds=1)
    prune(blendmask(), data=batches, reconstruct=False, max_flops=0.7, rounds=1)
    with pytest.raises(Asked):
        prune(blendmask(), data=batches, max_flops=0.7, rounds=1)


def test_layers_that_share_a_weight_share_it_afterwards(build, images, batches, randomise):
    model = randomise(build("retinanet"))
    first, second = model.head.cls_subnet[0], model.head.bbox_subnet[0]
    second.weight = first.weight
    prune(model, images, data=batches, importance="magnitude", max_flops=0.7, rounds=2)
    assert second.weight is first.weight


# With random weights the later stages of a cascade see empty boxes; the last is much like others.
FOR_IMAGES = [name for name in FAMILIES if name not in ("cascade", "syncbn")]


@pytest.mark.parametrize("family", slow_but(FOR_IMAGES, "mask-fpn"))
def test_what_zoo_models_predict_comes_nearer_without_labels(build, images, randomise, family):
    noise = torch.Generator().manual_seed(3)
    batches = [[{"image": 255 * torch.rand(3, 64, 64, generator=noise)}] for _ in range(3)]
    proposals = Instances((64, 64), proposal_boxes=Boxes(torch.tensor([[0.0, 0, 64, 64]])))
    proposals.objectness_logits = torch.ones(1)
    if family == "box-given-proposals":
        batches = [[{**each, "proposals": proposals} for each in batch] for batch in batches]
    model = randomise(build(family))
    seen = predictions(model, batches)
    errors = []
    for reconstruct in (False, True):
        pruned = copy.deepcopy(model)
        how = {"importance": "magnitude", "max_flops": 0.7, "rounds": 1}
        prune(pruned, images, data=batches, reconstruct=reconstruct, **how)
        found = predictions(pruned, batches)
        assert len(found) == len(seen)
        errors.append(sum((a - b).norm() / b.norm() for a, b in zip(found, seen)))
    assert errors[1] < 0.8 * errors[0]


def predictions(model, batches):
    return [
        torch.cat(each)
        for each in zip(*(map(torch.flatten, predictions_of(model, batch)) for batch in batches))
    ]
