"""What detectron2's release 0.6 does otherwise than its main. `make compat` runs the release."""

import warnings

import numpy
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import Checkpointer

import blendprune
from blendprune import overlay
from blendprune.pipeline.finetune import finetune_config


def load_file(self, filename):
    """As 0.6 reads a file: it has no ``_torch_load``."""
    if filename.endswith(".pkl"):
        with self.path_manager.open(filename, "rb") as file:
            return torch.load(file)
    loaded = Checkpointer._load_file(self, filename)
    return loaded if "model" in loaded else {"model": loaded}


@pytest.fixture
def release_0_6(monkeypatch):
    """The overlay on a detectron2 with the reader of 0.6."""
    overlay.import_targets()
    monkeypatch.delattr(DetectionCheckpointer, "_torch_load")
    monkeypatch.setattr(DetectionCheckpointer, "_load_file", load_file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no digest knows the reader above
        overlay.apply(on_drift="warn")
    yield
    overlay.revert()


def model_and_file(folder, extra):
    model = torch.nn.Linear(2, 2)
    path = str(folder / "some.pth")
    torch.save({"model": model.state_dict(), **extra}, path)
    return model, path


@pytest.mark.parametrize("extra", [{}, {"best": numpy.float64(1)}], ids=["plain", "number"])
def test_a_file_is_read_whatever_lies_beside_its_weights(release_0_6, tmp_path, extra):
    model, path = model_and_file(tmp_path, extra)
    dense = torch.nn.Linear(2, 2)
    DetectionCheckpointer(dense).load(path)
    assert torch.equal(dense.weight, model.weight)


def test_weights_alone_are_taken_as_the_model(release_0_6, tmp_path):
    path = str(tmp_path / "bare.pth")
    torch.save({"weight": torch.eye(2), "bias": numpy.ones(2, numpy.float32)}, path)
    loaded = torch.nn.Linear(2, 2)
    DetectionCheckpointer(loaded).load(path)
    assert torch.equal(loaded.weight, torch.eye(2))


def test_upstreams_own_unpickling_is_left_to_upstream(release_0_6, tmp_path):
    path = tmp_path / "broken.pkl"
    path.write_bytes(b"no pickle")
    with pytest.raises(Exception, match="Weights only load failed"):
        DetectionCheckpointer(torch.nn.Linear(2, 2)).load(str(path))


def test_the_patch_is_that_of_the_release_and_reverts_exactly(release_0_6):
    (row,) = [row for row in blendprune.status() if row.name == "save-struct"]
    assert row.target.endswith("DetectionCheckpointer.load")
    assert DetectionCheckpointer._load_file is not load_file
    overlay.revert()
    assert DetectionCheckpointer._load_file is load_file
    assert "_torch_load" not in vars(DetectionCheckpointer)


def test_nothing_needs_the_transformers_that_0_6_lacks(fresh_python):
    fresh_python(
        "import sys, detectron2.modeling\n"
        "for name in ('swin', 'vit', 'mvit'):\n"
        "    sys.modules[f'detectron2.modeling.backbone.{name}'] = None\n"
        "import blendprune.deployment.export.windows, blendprune.modeling.attention\n"
        "import blendprune.pipeline, blendprune.training\n"
        "model = blendprune.modeling.attention.nn.Identity()\n"
        "assert blendprune.deployment.export.windows.trace_windows(model) is model\n"
    )


def test_a_config_without_an_end_of_the_rate_gets_a_fine_tuning(blendmask_cfg):
    cfg = blendmask_cfg("SOLVER.BASE_LR", 0.02)
    cfg.SOLVER.pop("BASE_LR_END", None)
    tuned = finetune_config(cfg, "pruned")
    assert tuned.SOLVER.BASE_LR == 0.01
    assert "BASE_LR_END" not in tuned.SOLVER
    assert finetune_config_again(tuned).SOLVER.BASE_LR == 0.01


def finetune_config_again(tuned):
    """The config that fine-tunes what was fine-tuned before, from the record of the first time."""
    from blendprune.config import add_prune_config

    cfg = tuned.clone()
    kept = cfg.PRUNER
    del cfg["PRUNER"]
    add_prune_config(cfg)
    cfg.PRUNER.DENSE_TRAINING = kept.DENSE_TRAINING
    return finetune_config(cfg, "again")
