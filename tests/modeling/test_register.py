"""Importing registers nothing; registering twice is once; configs of the zoo merge."""

import pathlib
import sys

import pytest
from detectron2.config import get_cfg

from blendprune.modeling.blendmask_config import add_blendmask_config

CONFIGS = [
    "550_R_50_1x",
    "550_R_50_3x",
    "550_R_50_dcni3_5x",
    "R_50_1x",
    "R_50_3x",
    "R_101_3x",
    "R_101_dcni3_5x",
    "RT_R_50_4x_syncbn_shtw",
    "RT_R_50_4x_bn-head_syncbn_shtw",
    "Panoptic/R_50_1x",
    "Panoptic/R_50_3x",
    "Panoptic/R_50_dcni3_5x",
    "Panoptic/R_101_3x",
    "Panoptic/R_101_dcni3_5x",
    "Person/R_50_1x",
]


@pytest.fixture
def run(fresh_python):
    """A function that runs a script where AdelaiDet cannot be found; the words that it prints."""
    hide = "import sys, importlib.util as u\nfind = u.find_spec\n"
    hide += "u.find_spec = lambda name, *a: None if name == 'adet' else find(name, *a)\n"
    return lambda script: fresh_python(hide + script).stdout.split()


REGISTRIES = """
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.config.defaults import _C
def present():
    return ["BlendMask" in META_ARCH_REGISTRY, "FCOS" in PROPOSAL_GENERATOR_REGISTRY,
            "build_fcos_resnet_fpn_backbone" in BACKBONE_REGISTRY, "FCOS" in _C.MODEL]
"""


def test_importing_the_package_imports_nothing_heavy(run):
    script = "import blendprune\nbefore = set(sys.modules)\nimport blendprune.modeling\n"
    script += "print({n.split('.')[0] for n in set(sys.modules) - before} <= {'blendprune'})"
    assert run(script) == ["True"]


def test_importing_registers_nothing_and_registering_twice_is_once(run):
    script = REGISTRIES + (
        "import blendprune.modeling as m, blendprune.modeling.blendmask\n"
        "print(any(present()), m.register(), m.register(), all(present()))\n"
    )
    assert run(script) == ["False", "blendprune", "blendprune", "True"]


def test_a_name_that_somebody_else_registered_is_kept(run):
    script = REGISTRIES + (
        "class FCOS: pass\n"
        "PROPOSAL_GENERATOR_REGISTRY.register(FCOS)\n"
        "import blendprune.modeling as m; m.register()\n"
        "print(PROPOSAL_GENERATOR_REGISTRY.get('FCOS') is FCOS, all(present()))\n"
    )
    assert run(script) == ["True", "True"]


def test_adelaidets_own_classes_win_where_it_is_importable(monkeypatch):
    import blendprune.modeling as modeling

    class Adet:
        __path__ = ()

    for name in ("", ".modeling", ".data", ".config", ".config.defaults"):
        monkeypatch.setitem(sys.modules, f"adet{name}", Adet)
    assert modeling.register() == "adet"


def test_adding_the_config_twice_keeps_what_was_set():
    cfg = get_cfg()
    add_blendmask_config(cfg)
    cfg.MODEL.FCOS.NUM_CLASSES = 7
    add_blendmask_config(cfg)
    assert cfg.MODEL.FCOS.NUM_CLASSES == 7 and cfg.MODEL.BASIS_MODULE.NUM_BASES == 4


@pytest.mark.parametrize("name", CONFIGS)
def test_adelaidets_blendmask_configs_merge(name, adelaidet_root):
    cfg = get_cfg()
    add_blendmask_config(cfg)
    cfg.merge_from_file(str(pathlib.Path(adelaidet_root, "configs", "BlendMask", f"{name}.yaml")))
    assert cfg.MODEL.META_ARCHITECTURE == "BlendMask"
