"""Every meta architecture of detectron2 by its config; AdelaiDet's: test_adelaidet_models."""

import pytest
import test_projects
import test_zoo_models
from by_config import follow_config
from detectron2.modeling import META_ARCH_REGISTRY

FAMILIES = {
    "GeneralizedRCNN": lambda: test_zoo_models.config_of("mask-fpn"),
    "ProposalNetwork": lambda: test_zoo_models.config_of("rpn-fpn"),
    "RetinaNet": lambda: test_zoo_models.config_of("retinanet"),
    "PanopticFPN": lambda: test_zoo_models.config_of("panoptic"),
    "SemanticSegmentor": lambda: test_zoo_models.config_of("semantic"),
    "PanopticDeepLab": lambda: test_projects.config_of("panoptic-deeplab"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_prune_finetune_load_and_run_hold(overlay, tmp_path, name):
    cfg = FAMILIES[name]()
    assert cfg.MODEL.META_ARCHITECTURE == name
    follow_config(cfg, tmp_path, 64)


def test_every_meta_architecture_is_among_them():
    test_projects.config_of("panoptic-deeplab")  # registers it
    registered = {n for n, c in META_ARCH_REGISTRY if c.__module__.startswith("detectron2.")}
    assert registered == set(FAMILIES)
