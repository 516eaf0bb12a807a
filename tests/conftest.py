"""What every test shares: one thread, a fixed seed, and AdelaiDet where there is one."""

import importlib.util
import logging
import os
import pathlib
import sys

import pytest
import torch

# Their assertions show what was compared.
pytest.register_assert_rewrite("tests.helpers", "tests.zoo")

# Tests that need the extra blendprune[deploy], some to be imported at all.
_NEED_EXTRA = ("deployment/export", "pipeline/test_export.py")
_NEED_EXTRA += ("deployment/runtime/test_load.py", "deployment/runtime/engines")


class _Skipped(pytest.Module):
    def collect(self):
        pytest.skip("needs blendprune[deploy]")


if not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))):

    def pytest_pycollect_makemodule(module_path, parent):
        here = module_path.relative_to(pathlib.Path(__file__).parent)
        if any(here.is_relative_to(path) for path in _NEED_EXTRA):
            return _Skipped.from_parent(parent, path=module_path)


def pytest_configure(config):
    torch.set_num_threads(1)
    # The first backward of a process decides whether those that it forks may have any: it starts
    # threads if an export, for example, has made a device known.
    torch.ones(1, requires_grad=True).backward()
    # Before any test registers a BlendMask: whose it is must not depend on their order.
    root = os.environ.get("ADELAIDET_ROOT")
    if root:
        sys.path.insert(0, root)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef):
    # What a fixture shares must not depend on the tests that ran before in this process.
    if fixturedef.scope != "function":
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _logs():
    """What a script under test does to upstream's loggers ends with the test."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "adet", "blendprune")]
    before = [(logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before):
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagate, handlers


@pytest.fixture(scope="session")
def fresh_python():
    """A function that runs code in a process of its own, without detectron2."""
    from tests.helpers.fresh_python import FreshPython

    fresh = FreshPython()
    yield fresh
    fresh.close()


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
    from blendprune.modeling.operators.extension import standing_in

    with standing_in():
        import adet
    return adet


@pytest.fixture(scope="session")
def blendmask_cfg():
    """A function that makes the config of a small BlendMask R-18; the tail overrides it.

    Nothing global is touched: with AdelaiDet or without, under the overlay or not.
    """
    from detectron2.config import get_cfg

    from blendprune.config import add_prune_config
    from blendprune.modeling.blendmask_config import add_blendmask_config

    def make(*opts):
        cfg = get_cfg()
        add_blendmask_config(cfg)
        add_prune_config(cfg)
        cfg.merge_from_list([*_SMALL_BLENDMASK, *opts])
        return cfg

    return make


@pytest.fixture
def training_batch():
    """A function that makes random training inputs of a BlendMask with three classes."""
    from detectron2.structures import BitMasks, Boxes, Instances

    def make(images=2, size=64, channels=3):
        batch = []
        for seed in range(images):
            random = torch.Generator().manual_seed(seed)
            instances = Instances((size, size))
            masks = torch.zeros(2, size, size, dtype=torch.bool)
            masks[0, 4:28, 6:30] = masks[1, 30:56, 20:50] = True
            instances.gt_masks = BitMasks(masks)
            instances.gt_boxes = Boxes(torch.tensor([[6.0, 4, 30, 28], [20, 30, 50, 56]]))
            instances.gt_classes = torch.randint(3, (2,), generator=random)
            sem = torch.zeros(size, size, dtype=torch.long)
            for mask, label in zip(masks, instances.gt_classes):
                sem[mask] = label + 1
            image = torch.rand(channels, size, size, generator=random) * 255
            batch.append({"image": image, "instances": instances, "basis_sem": sem})
        return batch

    return make


@pytest.fixture
def registered(overlay):
    """The overlay with BlendMask registered: our own, unless AdelaiDet is importable."""
    from blendprune import modeling

    modeling.register()
    return overlay


@pytest.fixture(scope="session")
def small_blendmasks(blendmask_cfg):
    """A function that builds a small registered BlendMask, each tail of its config once."""
    from detectron2.modeling import build_model

    from tests.helpers.made_once import MadeOnce

    return MadeOnce(lambda *opts: build_model(blendmask_cfg(*opts)))


@pytest.fixture(scope="session")
def pruned_blendmasks(small_blendmasks):
    """A function that prunes a small registered BlendMask by magnitude, to each target once."""
    import blendprune
    from tests.helpers.made_once import MadeOnce

    def make(target, value):
        model = small_blendmasks()
        blendprune.prune(model, importance="magnitude", rounds=1, **{target: value})
        return model

    return MadeOnce(make)


@pytest.fixture
def checkpoint(registered, pruned_blendmasks, tmp_path):
    """A pruned BlendMask and its file."""
    from detectron2.checkpoint import DetectionCheckpointer

    model = pruned_blendmasks("pruning_ratio", 0.4)
    DetectionCheckpointer(model, str(tmp_path)).save("pruned")
    return model.eval(), str(tmp_path / "pruned.pth")


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
    ["res3", "res4"],
    "MODEL.FPN.IN_FEATURES",
    ["res3", "res4"],
    "MODEL.FPN.OUT_CHANNELS",
    64,
    "MODEL.PROPOSAL_GENERATOR.NAME",
    "FCOS",
    "MODEL.FCOS.TOP_LEVELS",
    0,
    "MODEL.FCOS.IN_FEATURES",
    ["p3", "p4"],
    "MODEL.FCOS.FPN_STRIDES",
    [8, 16],
    "MODEL.FCOS.SIZES_OF_INTEREST",
    [32],
    "MODEL.FCOS.NUM_CLASSES",
    3,
    "MODEL.FCOS.NUM_CLS_CONVS",
    1,
    "MODEL.FCOS.NUM_BOX_CONVS",
    1,
    "MODEL.FCOS.INFERENCE_TH_TEST",
    0.005,
    "MODEL.FCOS.POST_NMS_TOPK_TEST",
    10,
    "MODEL.BASIS_MODULE.IN_FEATURES",
    ["p3", "p4"],
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
