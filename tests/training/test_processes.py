"""The hooks in two processes that train one model, as upstream's ``launch`` starts them."""

import copy

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer, hooks, launch
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from blendprune.errors import ConfigError
from blendprune.pruning import prune
from blendprune.training import (
    Distillation,
    FixedStatistics,
    GradualPruning,
    GroupSparsity,
    KeepBest,
)
from tests.helpers.processes import in_processes
from tests.helpers.slow import slow_but


def _train(student, teacher, batch, folder):
    torch.set_num_threads(1)
    rank = comm.get_rank()
    # What launch passes on lies in memory that the processes share: equal, whatever they do.
    student, teacher = copy.deepcopy((student, teacher))
    model = DistributedDataParallel(student)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    # Each process has an image of its own.
    trainer = SimpleTrainer(model, [batch[rank : rank + 1]] * 10, optimizer)
    trainer.checkpointer = DetectionCheckpointer(model, folder)
    evaluations = []

    def evaluate():
        evaluations.append(30.0 - len(evaluations))
        # Evaluators give their results in the first process alone.
        return {} if rank else {"bbox": {"AP": evaluations[-1]}}

    tuning = [Distillation(teacher), GroupSparsity(5.0, period=2), KeepBest(evaluate, folder)]
    trainer.register_hooks(tuning)
    if comm.is_main_process():
        trainer.register_hooks([hooks.PeriodicCheckpointer(trainer.checkpointer, 9)])
    trainer.train(0, 3)
    found = {
        "weights": list(student.parameters()),
        "logged": sorted(trainer.storage.latest()),
        "evaluations": evaluations,
    }
    torch.save(found, f"{folder}/{rank}.pth")


@pytest.fixture
def student(blendmask, training_batch):
    model = blendmask()
    teacher = copy.deepcopy(model)
    prune(model, training_batch(1), max_flops=0.6, importance="magnitude", rounds=1)
    return model, teacher


@pytest.mark.slow
def test_all_processes_keep_the_same_weights(student, training_batch, tmp_path):
    model, teacher = student
    before = [p.detach().clone() for p in model.parameters()]
    launch(_train, 2, dist_url="auto", args=(model, teacher, training_batch(2), str(tmp_path)))
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert all(map(torch.equal, first["weights"], second["weights"]))
    moved = [not torch.equal(*pair) for pair in zip(first["weights"], before) if pair[0].dim() > 1]
    assert all(moved)
    # Upstream's trainer gathers the metrics in the first process.
    assert {"loss_distill_features", "loss_distill_heads"} <= set(first["logged"])
    # Both evaluate before and after the training. The first one keeps the better: the start.
    assert first["evaluations"] == second["evaluations"] == [30.0, 29.0]
    kept, last = (torch.load(tmp_path / f"model_{name}.pth") for name in ("final", "last"))
    start = model.state_dict()
    assert all(torch.equal(value, start[key]) for key, value in kept["model"].items())
    assert not torch.equal(*(each["model"]["top_layer.weight"] for each in (kept, last)))


# PyTorch's own SyncBN trains on GPUs alone; detectron2's has the same statistics.
@pytest.mark.parametrize("norm", slow_but(["BN", "naiveSyncBN"], "naiveSyncBN"))
def test_a_pruned_model_learns_from_a_teacher(blendmask, training_batch, norm, tmp_path):
    teacher = blendmask()
    student = blendmask("MODEL.RESNETS.NORM", norm)
    student.load_state_dict(teacher.state_dict())
    prune(student, training_batch(1), max_flops=0.6, importance="magnitude", rounds=1)
    statistics = "backbone.bottom_up.stem.conv1.norm.running_mean"

    def train():
        model = DistributedDataParallel(student, broadcast_buffers=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        rank = comm.get_rank()
        trainer = SimpleTrainer(model, [training_batch(2)[rank : rank + 1]] * 10, optimizer)
        trainer.register_hooks([Distillation(teacher)])
        trainer.train(0, 2)
        return list(model.parameters()), student.state_dict()[statistics], trainer.storage.latest()

    before = student.state_dict()[statistics].clone()
    first, second = in_processes(train, tmp_path)
    assert all(map(torch.equal, first[0], second[0]))
    assert {"loss_distill_features", "loss_distill_heads"} <= set(first[2])
    assert not torch.equal(first[1], before)
    assert torch.equal(first[1], second[1]) is (norm != "BN")


def test_sync_bn_with_fixed_statistics_learns_from_a_teacher(blendmask, training_batch, trainer_of):
    teacher, student = blendmask(), blendmask("MODEL.RESNETS.NORM", "SyncBN")
    student.load_state_dict(teacher.state_dict())
    prune(student, training_batch(1), max_flops=0.6, importance="magnitude", rounds=1)
    norms = [m for m in student.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    before = [(norm.running_mean.clone(), norm.weight.detach().clone()) for norm in norms]
    trainer = trainer_of(student, Distillation(teacher), FixedStatistics())
    trainer.train(0, 2)
    assert {"loss_distill_features", "loss_distill_heads"} <= set(trainer.storage.latest())
    assert norms
    for norm, (mean, weight) in zip(norms, before):
        assert torch.equal(norm.running_mean, mean) and not torch.equal(norm.weight, weight)


def _train_gradually(model, batch):
    rank, world = comm.get_rank(), comm.get_world_size()
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=1e-3, momentum=0.9)
    images = [batch[i : i + 1] for i in range(rank, len(batch), world)]
    trainer = SimpleTrainer(wrapped, images * 10, optimizer)
    gradual = GradualPruning(1, 2, 1, max_flops=0.6, images=2, importance="taylor")
    # Statistics of the own images alone would differ between the processes.
    trainer.register_hooks([FixedStatistics(), gradual])
    trainer.train(0, 4)
    momentum = [optimizer.state[p]["momentum_buffer"] for p in wrapped.parameters()]
    return model.state_dict(), momentum, gradual.report().layers


@pytest.mark.slow
def test_two_processes_prune_gradually_and_stay_equal(blendmask, training_batch, tmp_path):
    model, batch = blendmask(), training_batch(2)
    first, second = in_processes(lambda: _train_gradually(model, batch), tmp_path)
    assert first[2] == second[2]
    pruned = [name for name, width in first[2].items() if width["after"] < width["before"]]
    assert pruned
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name]), name
    assert all(map(torch.equal, first[1], second[1]))


def test_gradual_pruning_in_processes_wants_the_wrapper(blendmask, training_batch, tmp_path):
    def train():
        model = blendmask()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        trainer = SimpleTrainer(model, [training_batch(1)] * 2, optimizer)
        trainer.register_hooks([GradualPruning(1, 1, 1, max_flops=0.8)])
        trainer.train(0, 1)

    for error in in_processes(train, tmp_path):
        with pytest.raises(ConfigError, match="wants the DistributedDataParallel, .*one process"):
            raise error
