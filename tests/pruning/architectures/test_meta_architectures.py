"""Every meta architecture of detectron2 by its config; AdelaiDet's: test_adelaidet_models."""

import pytest
from detectron2.modeling import META_ARCH_REGISTRY

from tests.helpers import small_projects, small_zoo
from tests.helpers.by_config import follow_config
from tests.helpers.slow import slow_but

FAMILIES = {
    "GeneralizedRCNN": lambda: small_zoo.config_of("mask-fpn"),
    "ProposalNetwork": lambda: small_zoo.config_of("rpn-fpn"),
    "RetinaNet": lambda: small_zoo.config_of("retinanet"),
    "PanopticFPN": lambda: small_zoo.config_of("panoptic"),
    "SemanticSegmentor": lambda: small_zoo.config_of("semantic"),
    "PanopticDeepLab": lambda: small_projects.config_of("panoptic-deeplab"),
}


@pytest.mark.parametrize("name", slow_but(FAMILIES, "ProposalNetwork"))
def test_prune_finetune_load_and_run_hold(overlay, tmp_path, name):
    cfg = FAMILIES[name]()
    assert cfg.MODEL.META_ARCHITECTURE == name
    follow_config(cfg, tmp_path, 64)


def test_every_meta_architecture_is_among_them():
    small_projects.config_of("panoptic-deeplab")  # registers it
    registered = {n for n, c in META_ARCH_REGISTRY if c.__module__.startswith("detectron2.")}
    assert registered == set(FAMILIES)
