"""The hooks in two processes that train one model, as upstream's ``launch`` starts them."""

import copy

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer, hooks, launch
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from blendprune.errors import PruningError
from blendprune.pruning import prune
from blendprune.training import Distillation, GradualPruning, GroupSparsity, KeepBest


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


def _cut_while_training(student, batch):
    model = DistributedDataParallel(copy.deepcopy(student))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    trainer = SimpleTrainer(model, [batch[:1]] * 10, optimizer)
    trainer.register_hooks([GradualPruning(1, 1, 1, max_flops=0.8)])
    with pytest.raises(PruningError, match="train in one process"):
        trainer.train(0, 1)


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


@pytest.mark.slow
def test_gradual_pruning_wants_one_process(student, training_batch):
    launch(_cut_while_training, 2, dist_url="auto", args=(student[0], training_batch(1)))
