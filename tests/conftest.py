"""What every test shares: one thread, a fixed seed, and AdelaiDet where there is one."""

import importlib.util
import os
import sys

import pytest
import torch


def pytest_configure(config):
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def overlay():
    """The patch set, applied for one test."""
    import blendprune

    with blendprune.applied():
        yield blendprune


@pytest.fixture(scope="session")
def adelaidet_root():
    """Path of an importable AdelaiDet checkout; skips where there is none."""
    root = os.environ.get("ADELAIDET_ROOT")
    if root:
        return root
    spec = importlib.util.find_spec("adet")
    if spec is None:
        pytest.skip("AdelaiDet is not importable; set ADELAIDET_ROOT to a checkout")
    return os.path.dirname(os.path.dirname(spec.origin))


@pytest.fixture(scope="session")
def adelaidet(adelaidet_root):
    """AdelaiDet itself, imported, with the placeholder for its extension if it is not compiled."""
    if adelaidet_root not in sys.path:
        sys.path.insert(0, adelaidet_root)
    from blendprune.overlay.adelaidet import _Finder

    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        import adet
    finally:
        sys.meta_path.remove(finder)
    return adet


@pytest.fixture
def blendmask_cfg():
    """A function that makes the config of a small BlendMask R-18; the tail overrides it.

    Nothing global is touched: with AdelaiDet or without, under the overlay or not.
    """
    from detectron2.config import get_cfg

    from blendprune.config import add_prune_config
    from blendprune.modeling.config import add_blendmask_config

    def make(*opts):
        cfg = get_cfg()
        add_blendmask_config(cfg)
        add_prune_config(cfg)
        cfg.merge_from_list([*_SMALL_BLENDMASK, *opts])
        return cfg

    return make


_SMALL_BLENDMASK = (
    "MODEL.META_ARCHITECTURE",
    "BlendMask",
    "MODEL.DEVICE",
    "cpu",
    "MODEL.WEIGHTS",
    "",
    "MODEL.MASK_ON",
    True,
    "MODEL.BACKBONE.NAME",
    "build_fcos_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT",
    0,
    "MODEL.RESNETS.DEPTH",
    18,
    "MODEL.RESNETS.NORM",
    "BN",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    64,
    "MODEL.RESNETS.OUT_FEATURES",
    ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES",
    ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS",
    64,
    "MODEL.PROPOSAL_GENERATOR.NAME",
    "FCOS",
    "MODEL.FCOS.NUM_CLASSES",
    3,
    "MODEL.FCOS.NUM_CLS_CONVS",
    1,
    "MODEL.FCOS.NUM_BOX_CONVS",
    1,
    "MODEL.FCOS.INFERENCE_TH_TEST",
    0.005,
    "MODEL.BASIS_MODULE.NUM_CLASSES",
    3,
    "MODEL.BASIS_MODULE.CONVS_DIM",
    32,
    "MODEL.BASIS_MODULE.NUM_CONVS",
    1,
    "MODEL.BASIS_MODULE.NORM",
    "BN",
    "MODEL.BASIS_MODULE.LOSS_ON",
    True,
    "MODEL.BLENDMASK.ATTN_SIZE",
    4,
    "MODEL.BLENDMASK.BOTTOM_RESOLUTION",
    14,
    "MODEL.PANOPTIC_FPN.COMBINE.ENABLED",
    False,
    "INPUT.MIN_SIZE_TEST",
    64,
)
