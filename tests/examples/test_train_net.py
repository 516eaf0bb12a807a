"""The training script, run as a user would: train, prune, fine-tune, and prune by hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import blendprune

ROOT = Path(__file__).parents[2]
SMALL = """
    MODEL.DEVICE cpu MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64
    MODEL.RESNETS.NORM BN MODEL.BACKBONE.FREEZE_AT 0 MODEL.FPN.OUT_CHANNELS 64
    MODEL.BASIS_MODULE.NORM BN MODEL.BASIS_MODULE.CONVS_DIM 32 MODEL.BLENDMASK.ATTN_SIZE 4
    MODEL.FCOS.NUM_CLS_CONVS 1 MODEL.FCOS.NUM_BOX_CONVS 1 MODEL.FCOS.NORM BN
    INPUT.MASK_FORMAT bitmask INPUT.MIN_SIZE_TRAIN (128,) INPUT.MIN_SIZE_TEST 128
    SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 4 SOLVER.STEPS () DATALOADER.NUM_WORKERS 0
    SOLVER.BASE_LR 1e-5
""".split()  # From random weights, with statistics of four batches, a usual rate may diverge.
# As long as the training: upstream divides by zero at the end of one of two iterations.
PRUNER = "PRUNER.CALIBRATION_IMAGES 4 PRUNER.ROUNDS 1 PRUNER.FINETUNE_SCHEDULE 1.0".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function that runs a Python program on digit scenes in COCO's folder layout."""
    from blendprune.data.digits import write_digits

    folder = tmp_path_factory.mktemp("examples")
    write_digits(folder / "datasets", num_train=4, num_test=2, layout="coco")

    def run(*args, adelaidet=None, code=0):
        env = {
            **os.environ,
            "DETECTRON2_DATASETS": str(folder / "datasets"),
            "OMP_NUM_THREADS": "1",
        }
        paths = [adelaidet] if adelaidet else []
        env["PYTHONPATH"] = os.pathsep.join([*paths, env.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *map(str, args)],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
        return done

    run.folder = folder
    return run


def _story(run, script, config, output, **where):
    """Train with a script, prune with the command, fine-tune and evaluate with the script."""
    dense, pruned = f"{output}/dense", f"{output}/pruned"
    small = [*SMALL, "OUTPUT_DIR", dense, "MODEL.WEIGHTS", ""]
    run(*script, "--config-file", config, *small, **where)
    weights = ["MODEL.WEIGHTS", f"{dense}/model_final.pth"]
    run(
        *("-m", "blendprune", "prune", "--config-file", f"{dense}/config.yaml"),
        *("--max-flops", "0.5", "--output", pruned, *weights, *PRUNER),
        **where,
    )
    config = f"{pruned}/config.yaml"
    run(*script, "--config-file", config, **where)
    run(*script, "--config-file", config, "--resume", "SOLVER.MAX_ITER", "8", **where)
    final = f"{pruned}/finetune/model_final.pth"
    run(*script, "--config-file", config, "--eval-only", "MODEL.WEIGHTS", final, **where)
    content = torch.load(run.folder / final, weights_only=True)
    assert content["iteration"] == 7
    start = torch.load(run.folder / pruned / "model_pruned.pth", weights_only=True)
    assert content["struct"]["modules"].keys() == start["struct"]["modules"].keys()
    assert content["struct"]["size"] < 0.7 * content["struct"]["dense_size"]
    return start, content


@pytest.mark.slow
def test_the_training_script_trains_and_finetunes_what_the_command_pruned(run):
    config = ROOT / "examples/configs/blendmask_R_18.yaml"
    _story(run, [ROOT / "examples/train_net.py"], config, "own")


@pytest.mark.slow
def test_the_hand_written_script_saves_what_finetune_takes(run):
    config = ROOT / "examples/configs/blendmask_R_18.yaml"
    small = [*SMALL, "OUTPUT_DIR", "hand/dense", "SOLVER.MAX_ITER", "1"]
    run(ROOT / "examples/train_net.py", "--config-file", config, *small)
    weights = ["MODEL.WEIGHTS", "hand/dense/model_final.pth"]
    run(
        *(ROOT / "examples/prune_by_hand.py", "--config-file", "hand/dense/config.yaml"),
        *("--output", "hand/pruned", *weights),
    )
    pruned = "hand/pruned/model_pruned.pth"
    run(
        *(ROOT / "examples/train_net.py", "--config-file", "hand/dense/config.yaml"),
        *("MODEL.FINETUNE", "True", "MODEL.WEIGHTS", pruned, "OUTPUT_DIR", "hand/finetune"),
    )
    model = blendprune.load(str(run.folder / "hand/finetune/model_final.pth"))
    assert model.backbone.output_shape()["p3"].channels < 64


def test_adelaidets_unmodified_script_trains_and_finetunes(run, adelaidet_root):
    script = ["-m", "blendprune", "run", os.path.join(adelaidet_root, "tools/train_net.py")]
    config = os.path.join(adelaidet_root, "configs/BlendMask/R_50_1x.yaml")
    _story(run, script, config, "adet", adelaidet=adelaidet_root)
