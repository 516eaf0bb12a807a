"""Gradual pruning: where it arrives, and what becomes of the optimizer."""

import copy
import operator

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase
from torch import nn

import blendprune
from blendprune.errors import ConfigError, PruningError
from blendprune.pruning import count_flops, head_outputs, prunable
from blendprune.pruning.cost.count import count_costs, total_costs
from blendprune.pruning.graph.channel_graph import ChannelGraph
from blendprune.pruning.graph.kept_entries import KeptEntries
from blendprune.pruning.tracing.hooks import evaluating
from blendprune.training import GradualPruning
from blendprune.training.gradual import parameters_of, replace_parameters
from tests.helpers.slow import slow_but


@pytest.fixture
def images():
    return [{"image": 255 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))}]


class _Record(HookBase):
    """FLOPs after each iteration."""

    def __init__(self, images):
        self.images, self.flops = images, []

    def after_step(self):
        self.flops.append(sum(count_flops(self.trainer.model, self.images).values()))


def test_a_model_in_data_parallel_is_pruned_like_a_plain_one(blendmask, trainer_of, images):
    found = []
    for wrap in (nn.DataParallel, nn.Identity):
        torch.manual_seed(0)
        model = blendmask()
        gradual = GradualPruning(
            1, 2, 1, max_flops=0.6, importance="magnitude", example_inputs=images
        )
        wrapped = model if wrap is nn.Identity else wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        trainer_of(wrapped, gradual, optimizer=optimizer).train(0, 3)
        found.append(list(model.parameters()))
    # Two runs of one model differ by rounding, too.
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("kind", slow_but(["sgd", "adamw"], "adamw"))
def test_it_arrives_at_the_target_and_the_training_goes_on(
    blendmask, trainer_of, images, tmp_path, kind
):
    model = blendmask()
    dense = sum(count_flops(model, images).values())
    if kind == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    gradual = GradualPruning(2, 6, 2, max_flops=0.5, importance="magnitude", example_inputs=images)
    record = _Record(images)
    trainer = trainer_of(model, gradual, record, optimizer=optimizer)
    trainer.train(0, 8)

    kept = [flops / dense for flops in record.flops]
    assert kept[0] == 1 and kept[1] == kept[2] > kept[3] == kept[4] > kept[5] == kept[7]
    assert 0.49 <= kept[7] <= 0.5
    assert gradual.report().flops == {"before": dense, "after": record.flops[-1]}
    # As writers show it: the last round, not the median of all.
    logged, iteration = trainer.storage.latest_with_smoothing_hint(20)["kept_flops"]
    assert iteration == 5 and logged == pytest.approx(kept[7], rel=1e-3)

    live = {p for group in optimizer.param_groups for p in group["params"]}
    assert live == set(model.parameters()) == set(optimizer.state)
    for p in live:
        for value in optimizer.state[p].values():
            if isinstance(value, torch.Tensor) and value.dim():
                assert value.shape == p.shape

    DetectionCheckpointer(model, str(tmp_path)).save("gradual")
    again = blendprune.load(str(tmp_path / "gradual.pth"))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items())


def test_scores_come_from_the_trainers_own_data(blendmask, trainer_of):
    gradual = GradualPruning(1, 2, 1, max_params=0.7, images=2, importance="taylor")
    model = blendmask()
    dense = sum(p.numel() for p in model.parameters())
    trainer_of(model, gradual).train(0, 3)
    assert 0.98 * 0.7 <= sum(p.numel() for p in model.parameters()) / dense <= 0.7


def test_what_is_left_is_fitted_after_each_cut(blendmask, trainer_of, training_batch):
    errors = {}
    for reconstruct in (True, False):
        torch.manual_seed(0)
        # Norms that are the same in training, so that cuts alone change the model.
        norms = ("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BASIS_MODULE.NORM", "")
        model = blendmask(*norms, "MODEL.FCOS.NORM", "none")
        dense = copy.deepcopy(model)
        how = {"max_flops": 0.6, "images": 2, "importance": "taylor"}
        gradual = GradualPruning(1, 2, 1, **how, reconstruct=reconstruct)
        trainer_of(model, gradual, lr=0.0).train(0, 3)
        with torch.no_grad(), evaluating(model), evaluating(dense):
            pairs = zip(*(head_outputs(each, training_batch()) for each in (dense, model)))
            errors[reconstruct] = sum((x - y).square().sum() for x, y in pairs)
    assert errors[True] < 0.5 * errors[False]


def test_layers_that_the_model_lacks_are_refused_before_the_training(blendmask, trainer_of, images):
    gradual = GradualPruning(
        1, 2, 1, max_flops=0.7, ignored_layers=["backbone.res9.*"], example_inputs=images
    )
    trainer = trainer_of(blendmask(), gradual)
    with pytest.raises(ConfigError, match="res9"):
        trainer.train(0, 3)
    assert trainer.iter == 0 and not trainer.optimizer.state


def test_momentum_goes_with_the_channels_that_stay(blendmask, images):
    model = blendmask()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    for p in model.parameters():
        p.grad = p.detach().clone()
    optimizer.step()  # the momentum of each weight is now the weight itself
    before, kept = parameters_of(model), KeptEntries()
    with prunable(model):
        graph = ChannelGraph(model, images)
        for group in graph.groups():
            if group.prunable and group.num_parts == 1:
                graph.prune(group, range(0, group.width, 3), kept)
    replace_parameters(optimizer, before, model, kept)
    unchanged = set(before.values())
    assert sum(p not in unchanged for p in model.parameters()) > 50
    for p in model.parameters():
        assert torch.equal(optimizer.state[p]["momentum_buffer"], p)


def test_training_resumes_towards_the_same_target(blendmask, trainer_of, images):
    def gradual():
        return GradualPruning(2, 4, 2, max_flops=0.6, importance="magnitude", example_inputs=images)

    model = blendmask()
    dense = sum(count_flops(model, images).values())
    first = trainer_of(model, gradual())
    with pytest.raises(KeyboardInterrupt):
        first.register_hooks([_Stop(at=2)])
        first.train(0, 6)
    state = copy.deepcopy(first.state_dict())
    second = trainer_of(model, gradual())
    second.load_state_dict(state)
    second.train(3, 6)
    assert 0.98 * 0.6 <= sum(count_flops(model, images).values()) / dense <= 0.6


@pytest.mark.slow
def test_memory_goes_down_too(blendmask, trainer_of, images):
    model = blendmask()
    gradual = GradualPruning(
        1, 2, 1, max_memory=0.7, importance="magnitude", round_to=1, example_inputs=images
    )
    trainer_of(model, gradual).train(0, 3)
    memory = gradual.report().memory_mb
    assert 0.98 * 0.7 <= memory["after"] / memory["before"] <= 0.7 + 1e-9
    found = total_costs(model, count_costs(model, images, memory=True))["memory"]
    assert found == 1e6 * memory["after"]


class _Stop(HookBase):
    def __init__(self, at):
        self.at = at

    def after_step(self):
        if self.trainer.iter == self.at:
            raise KeyboardInterrupt


def test_a_target_out_of_reach_leaves_the_model(blendmask, trainer_of):
    model = blendmask()
    shapes = [p.shape for p in model.parameters()]
    gradual = GradualPruning(1, 1, 1, max_flops=0.001, importance="magnitude")
    with pytest.raises(PruningError, match="out of reach"):
        trainer_of(model, gradual).train(0, 2)
    assert [p.shape for p in model.parameters()] == shapes


def test_the_same_data_parallel_wraps_the_pruned_parameters(blendmask, trainer_of, tmp_path):
    gradual = GradualPruning(1, 2, 1, max_flops=0.5, importance="magnitude")
    trainer = trainer_of(blendmask(), gradual)
    reduced = []

    def reduce(state, bucket):
        state.append(len(bucket.parameters()))
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", store, rank=0, world_size=1)
    try:
        model = trainer.model = nn.parallel.DistributedDataParallel(
            trainer.model,
            broadcast_buffers=False,
            bucket_cap_mb=1,
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
        )
        model.register_comm_hook(reduced, reduce)
        model.register_forward_pre_hook(lambda module, inputs: reduced.clear())
        old, reducer, settings = list(model.parameters()), model.reducer, _settings(model)
        trainer.train(0, 4)
    finally:
        torch.distributed.destroy_process_group()
    assert trainer.model is model and model.reducer is not reducer
    new = list(model.parameters())
    assert all(map(operator.is_, model._module_parameters, new))
    assert not any(map(operator.is_, old[:3], new))
    assert _settings(model) == settings
    # Both hooks are still there: the last step reduced each parameter once.
    assert sum(reduced) == len(new)


def _settings(model):
    names = "find_unused_parameters gradient_as_bucket_view bucket_bytes_cap dim training"
    # The second name is the newer one.
    synced = [vars(model).get(f"{how}_buffers") for how in ("broadcast", "forward_sync")]
    return [getattr(model, name) for name in names.split()] + synced


def test_times_that_cannot_hold_are_refused(blendmask, trainer_of):
    with pytest.raises(ConfigError, match="0 < start <= end"):
        GradualPruning(5, 2, 1, max_flops=0.5)
    late = GradualPruning(1, 9, 1, max_flops=0.5, importance="magnitude")
    with pytest.raises(ConfigError, match="ends after 9 iterations, but the training has 3"):
        trainer_of(blendmask(), late).train(0, 3)
