"""Emitted configs: they find their file after a move, and merge whatever was imported before."""

import os
import shutil

import pytest
import torch
from detectron2.config import get_cfg

from blendprune.config.emitted import drop_keys_of_other_models
from blendprune.overlay._patch import importable


@pytest.fixture
def folder(overlay, tmp_path):
    """A folder as ``prune`` leaves it."""
    folder = tmp_path / "prüned 1"
    folder.mkdir()
    torch.save({}, folder / "model_pruned.pth")
    cfg = get_cfg()
    cfg.MODEL.FINETUNE, cfg.MODEL.WEIGHTS = True, str(folder / "model_pruned.pth")
    cfg.OUTPUT_DIR = str(folder / "finetune")
    cfg.PRUNER.DISTILLATION.TEACHER = str(tmp_path / "dense.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def _read(folder):
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    return cfg


def test_a_moved_config_finds_the_file_beside_it(folder, tmp_path):
    new = tmp_path / "elsewhere"
    shutil.copytree(folder, new)
    assert _read(new).MODEL.WEIGHTS == str(folder / "model_pruned.pth")  # both exist
    shutil.rmtree(folder)
    cfg = _read(new)
    assert cfg.MODEL.WEIGHTS == str(new / "model_pruned.pth")
    assert cfg.OUTPUT_DIR == str(new / "finetune")
    assert cfg.PRUNER.DISTILLATION.TEACHER == str(tmp_path / "dense.pth")


@pytest.mark.parametrize("how", ["built upon", "linked"])
def test_a_moved_config_is_found_from_elsewhere(folder, tmp_path, how):
    new, mine = tmp_path / "elsewhere", tmp_path / "mine"
    shutil.move(folder, new)
    mine.mkdir()
    if how == "linked":
        os.symlink(new / "config.yaml", mine / "config.yaml")
    else:
        (mine / "config.yaml").write_text("_BASE_: ../elsewhere/config.yaml\nSEED: 3\n")
    cfg = _read(mine)
    assert cfg.MODEL.WEIGHTS == str(new / "model_pruned.pth")
    assert cfg.OUTPUT_DIR == str(new / "finetune")


def test_a_config_without_its_file_stays_as_it_is(folder):
    os.remove(folder / "model_pruned.pth")
    assert _read(folder).MODEL.WEIGHTS == str(folder / "model_pruned.pth")


def test_keys_of_other_models_are_dropped_unless_they_are_set(registered):
    cfg = get_cfg()
    cfg.MODEL.MINE = type(cfg)({"WIDTH": 8})
    if not importable("adet"):
        cfg.MODEL.FCOS.NUM_CLASSES = 5
    drop_keys_of_other_models(cfg)
    assert "BLENDMASK" not in cfg.MODEL and "HFLIP_TRAIN" not in cfg.INPUT
    assert cfg.MODEL.MINE.WIDTH == 8 and cfg.MODEL.PRUNE is False and "GRADUAL" in cfg.PRUNER
    if not importable("adet"):
        assert dict(cfg.MODEL.FCOS) == {"NUM_CLASSES": 5}


def test_a_model_keeps_the_keys_that_it_needs(blendmask_cfg, registered):
    cfg = blendmask_cfg()
    before = cfg.dump()
    drop_keys_of_other_models(cfg)
    assert cfg.dump() == before


ORDERS = {
    "apply first": "import blendprune; blendprune.apply(); from detectron2.config import get_cfg",
    "config first": "from detectron2.config import get_cfg; import blendprune; blendprune.apply()",
    "models first": "import detectron2.modeling, blendprune; blendprune.apply(); "
    "from detectron2.config import get_cfg",
}


@pytest.mark.skipif(importable("adet"), reason="AdelaiDet's script imports AdelaiDet's keys")
@pytest.mark.parametrize("order", ORDERS)
def test_an_emitted_config_merges_in_any_order_of_imports(
    order, fresh_python, blendmask_cfg, registered, tmp_path
):
    blendmask = blendmask_cfg()
    blendmask.merge_from_list(["MODEL.FINETUNE", True, "MODEL.WEIGHTS", "x.pth"])
    mask_rcnn = get_cfg()
    for name, cfg in (("blendmask", blendmask), ("mask_rcnn", mask_rcnn)):
        drop_keys_of_other_models(cfg)
        (tmp_path / name).write_text(cfg.dump())
    code = (
        f"{ORDERS[order]}\nfor name in ('blendmask', 'mask_rcnn'): get_cfg().merge_from_file(name)"
    )
    fresh_python(code, cwd=tmp_path)
