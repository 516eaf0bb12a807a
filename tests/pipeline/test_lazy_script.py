"""The lines that docs/script.md has for scripts with a LazyConfig."""

import itertools

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.engine import SimpleTrainer

import blendprune
from blendprune.checkpoint import read_struct
from tests.helpers.small_lazy import FAMILIES


def _trainer(model, loader, folder):
    """As detectron2's tools/lazyconfig_train_net.py has it."""
    trainer = SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), 1e-5))
    return trainer, DetectionCheckpointer(model, str(folder), trainer=trainer)


def test_a_lazyconfig_script_prunes_and_fine_tunes_by_its_documented_lines(
    overlay, training_batch, tmp_path
):
    cfg = FAMILIES["regnet-x"]()
    model, train_loader = instantiate(cfg.model), itertools.repeat(training_batch())
    _, checkpointer = _trainer(model, train_loader, tmp_path)
    report = blendprune.prune(
        model, max_flops=0.8, data=train_loader, importance="magnitude", reconstruct=False
    )
    checkpointer.save("model_pruned")

    path = str(tmp_path / "model_pruned.pth")
    again = instantiate(cfg.model)
    blendprune.restructure(again, read_struct(path))
    trainer, checkpointer = _trainer(again, train_loader, tmp_path / "tuned")
    checkpointer.resume_or_load(path, resume=False)
    trainer.train(0, 1)
    assert sum(p.numel() for p in again.parameters()) == report.params["after"]
