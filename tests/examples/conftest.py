"""A shell in the folder of the examples, and what its first recipe makes of digit scenes."""

import os
import types
from pathlib import Path

import pytest

from tests.helpers.warm_shell import WarmShell

EXAMPLES = Path(__file__).parents[2] / "examples"
# Of any config: small images, few iterations.
_QUICK = """
    MODEL.DEVICE cpu MODEL.BACKBONE.FREEZE_AT 0 MODEL.FPN.OUT_CHANNELS 64
    INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 DATALOADER.NUM_WORKERS 0
    SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 3 SOLVER.STEPS () SOLVER.BASE_LR 1e-5
    PRUNER.CALIBRATION_IMAGES 4 PRUNER.ROUNDS 1 PRUNER.FINETUNE_SCHEDULE 1.0
    MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.RESNETS.NORM BN
"""
_SMALL = {
    "blendmask": """
        MODEL.BASIS_MODULE.NORM BN MODEL.BASIS_MODULE.CONVS_DIM 32 MODEL.BLENDMASK.ATTN_SIZE 4
        MODEL.FCOS.NORM BN MODEL.FCOS.NUM_CLS_CONVS 1 MODEL.FCOS.NUM_BOX_CONVS 1
        MODEL.RESNETS.OUT_FEATURES ['res2','res3'] MODEL.FPN.IN_FEATURES ['res2','res3']
        MODEL.BASIS_MODULE.IN_FEATURES ['p2','p3'] MODEL.FCOS.TOP_LEVELS 0
        MODEL.FCOS.IN_FEATURES ['p2','p3'] MODEL.FCOS.FPN_STRIDES [4,8]
        MODEL.FCOS.SIZES_OF_INTEREST [32] MODEL.FCOS.INFERENCE_TH_TEST 1e-4
        MODEL.BASIS_MODULE.NUM_CONVS 1 MODEL.BASIS_MODULE.COMMON_STRIDE 4
    """,
    "mask_rcnn": """
        MODEL.ROI_BOX_HEAD.FC_DIM 64 MODEL.ROI_MASK_HEAD.CONV_DIM 32 MODEL.RPN.POST_NMS_TOPK_TEST 50
    """,
    "retinanet": "MODEL.RETINANET.NUM_CONVS 1",
}


def small(name):
    """KEY VALUE pairs that make the model of a config small; it starts from random weights."""
    return [*_QUICK.split(), *_SMALL[name].split(), "MODEL.WEIGHTS", ""]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A folder with scenes in COCO's format."""
    from blendprune.data.digits import write_digits

    root = tmp_path_factory.mktemp("scenes") / "data"
    return Path(write_digits(root, num_train=4, num_test=2, image_size=64))


@pytest.fixture(scope="session")
def shell(scenes, tmp_path_factory):
    """A function that runs a command in the folder of the examples, with the data set."""
    warm = WarmShell(tmp_path_factory.mktemp("shell"))
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])

    def run(*command, **environ):
        environ = {"OWN_DATA": str(scenes), "PYTHONPATH": path, **environ}
        return warm(*command, cwd=EXAMPLES, **environ)

    yield run
    warm.close()


@pytest.fixture(scope="session")
def recipe(shell, scenes, tmp_path_factory):
    """A function that runs the recipe for own data; it gives the folder that was written."""

    def run(name):
        output = tmp_path_factory.mktemp(name)
        picture = scenes / "test/000001.png"
        config = f"configs/own_{name}.yaml"
        said = shell("sh", "own_data.sh", config, output, picture, *small(name))
        return types.SimpleNamespace(folder=output, said=said, picture=picture)

    return run


@pytest.fixture(scope="session")
def blendmask(recipe):
    """A tiny BlendMask: trained, pruned, fine-tuned and exported by the recipe."""
    return recipe("blendmask")
