"""What holds for every meta architecture by its config: PRUNE, FINETUNE, load, run, distil."""

import pathlib
import sys
import types
from unittest import mock

import torch
from detectron2.checkpoint import DetectionCheckpointer

import blendprune
from blendprune.__main__ import main
from blendprune.pruning import accumulate_gradients, prunable
from blendprune.pruning.scores.predictions import PredictionProbe
from blendprune.training import Distillation
from tests.zoo import (
    assert_same,
    build_dense,
    draw_mask_encoding,
    few_regions,
    load_again,
    settle_norms,
    tensors_of,
    train_one_step,
    training_batch,
)

# As upstream's training scripts do it, but for data: they know nothing of pruning.
SCRIPT = """
import sys
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tests.zoo import allow_any_score, few_regions, train_one_step, training_batch

cfg = CfgNode(CfgNode.load_yaml_with_base(sys.argv[1]))
model = allow_any_score(build_model(cfg))
few_regions(model)
checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR)
checkpointer.load(cfg.MODEL.WEIGHTS)
checkpointer.save("model_first")
train_one_step(model, training_batch(cfg, cfg.INPUT.MIN_SIZE_TEST))
checkpointer.save("model_final")
"""


def follow_config(cfg, folder, size):
    """Prune under MODEL.PRUNE, fine-tune under MODEL.FINETUNE through ``blendprune run``, reload.

    At last the reloaded model learns from the dense one, whose predictions can be probed.

    Args:
        cfg (CfgNode): of a small model, without weights.
        folder (str): where checkpoints go.
        size (int): side of the image in pixels.

    Raises:
        AssertionError: something did not come out as it should.
    """
    folder = pathlib.Path(folder)
    images = [
        {k: x[k] for k in ("image", "proposals", "height", "width")}
        for x in training_batch(cfg, size)[:1]
    ]
    cfg.MODEL.PRUNE = True
    model = build_dense(cfg, size)
    draw_mask_encoding(model)
    settle_norms(model, images)
    dense = {key: value.clone() for key, value in model.state_dict().items()}
    outputs = list(tensors_of(model(images)))
    assert outputs and all(output.requires_grad for output in outputs)
    blendprune.prune(model, images, max_flops=0.8, importance="magnitude", rounds=1)
    DetectionCheckpointer(model, str(folder)).save("model_pruned")
    pruned = torch.load(folder / "model_pruned.pth", weights_only=True)
    assert pruned["struct"]["meta_architecture"] == cfg.MODEL.META_ARCHITECTURE

    cfg.MODEL.PRUNE, cfg.MODEL.FINETUNE = False, True
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = str(folder / "model_pruned.pth"), str(folder)
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "train_net.py").write_text(SCRIPT)
    with mock.patch.multiple(sys, argv=[], path=list(sys.path)):
        assert main(["run", str(folder / "train_net.py"), str(folder / "config.yaml")]) == 0
    first, final = (
        torch.load(folder / f"model_{name}.pth", weights_only=True) for name in ("first", "final")
    )
    assert first["model"].keys() == final["model"].keys() == pruned["model"].keys()
    assert all(torch.equal(first["model"][key], value) for key, value in pruned["model"].items())
    assert any(not torch.equal(final["model"][key], value) for key, value in first["model"].items())
    assert first["struct"]["modules"] == final["struct"]["modules"] == pruned["struct"]["modules"]
    loaded = [load_again(str(folder / f"model_{n}.pth"), cfg, size) for n in ("pruned", "first")]
    assert_same(*loaded, images)

    cfg.MODEL.FINETUNE = False
    teacher = build_dense(cfg, size)
    teacher.load_state_dict(dense)
    batch = training_batch(cfg, size)
    distil_one_step(loaded[0], teacher, batch)
    probe_predictions(teacher, batch)


def distil_one_step(model, teacher, batch):
    """One step under a teacher: there is something to learn from its features and its heads."""
    few_regions(model)
    hook = Distillation(teacher)
    hook.trainer = types.SimpleNamespace(model=model)
    hook.before_train()
    hook.before_step()
    losses = train_one_step(model, batch)
    hook.after_train()
    # Of a small map, the regression explains nearly all.
    assert losses["loss_distill_features"] > 0
    assert losses["loss_distill_heads"] > 1e-3


def probe_predictions(model, batch):
    """What the predictions depend on is found: gradients reach the backbone."""
    with prunable(model):
        accumulate_gradients(model, [batch], loss=PredictionProbe(model, batch[:1]))
    gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert sum(gradient.abs().sum() for gradient in gradients) > 0
