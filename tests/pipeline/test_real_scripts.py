"""Upstream's own training scripts, unedited, with their own configs: train, prune, fine-tune.

They run where DETECTRON2_ROOT and ADELAIDET_ROOT name checkouts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blendprune.data.digits import write_digits
from tests.helpers.small_projects import POINTS
from tests.helpers.small_zoo import SMALL

TINY = (*SMALL, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "DATALOADER.NUM_WORKERS", 0)
TINY += ("DATASETS.TRAIN", ("coco_2017_train",), "DATASETS.TEST", ("coco_2017_val",))
# Upstream divides by zero at the end of two iterations.
TINY += ("SOLVER.MAX_ITER", 4, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 1e-5)
TINY += ("INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 96, "SOLVER.STEPS", ())
TINY += ("INPUT.MASK_FORMAT", "bitmask")
PRUNE = ("MODEL.PRUNE", True, "PRUNER.MAX_FLOPS", 0.6, "PRUNER.CALIBRATION_IMAGES", 4)
PRUNE += ("PRUNER.ROUNDS", 1)
POINT_REND = "projects/PointRend/configs/InstanceSegmentation/pointrend_rcnn_R_50_FPN_1x_coco.yaml"

# Checkout, script, config, and what makes the model of that config small.
SCRIPTS = {
    "train_net": ("DETECTRON2_ROOT", "tools/train_net.py")
    + ("configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",),
    "plain_train_net": ("DETECTRON2_ROOT", "tools/plain_train_net.py")
    # From random weights, with norms that scale nothing, a usual rate diverges.
    + ("configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml", "SOLVER.BASE_LR", 1e-6),
    "point_rend": ("DETECTRON2_ROOT", "projects/PointRend/train_net.py", POINT_REND, *POINTS),
    "adelaidet": ("ADELAIDET_ROOT", "tools/train_net.py", "configs/BlendMask/R_50_1x.yaml")
    + ("MODEL.BASIS_MODULE.LOSS_ON", False),
}


@pytest.fixture(params=SCRIPTS)
def run_script(request, tmp_path):
    """A function that runs an upstream script on a tiny COCO, to its end."""
    variable, script, config, *own = SCRIPTS[request.param]
    root = os.environ.get(variable)
    if root is None:
        pytest.skip(f"{variable} does not name a checkout")
    write_digits(tmp_path / "datasets", num_train=6, num_test=3, image_size=96, layout="coco")
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    if variable == "ADELAIDET_ROOT":
        paths.append(root)
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(tmp_path / "datasets"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }

    def run(*opts, config=None):
        command = [sys.executable, "-W", "ignore", "-m", "blendprune", "run", Path(root, script)]
        command += ["--config-file", config or Path(root, run.config)]
        done = subprocess.run(
            [*map(str, command), *map(str, opts)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run.config, run.own, run.name = config, own, request.param
    return run


def test_an_upstream_script_trains_prunes_and_fine_tunes(run_script, tmp_path):
    small = (*TINY, *run_script.own)
    run_script(*small, "OUTPUT_DIR", "dense")
    dense = torch.load(tmp_path / "dense/model_final.pth", weights_only=True)
    told = run_script(
        *small, *PRUNE, "MODEL.WEIGHTS", "dense/model_final.pth", "OUTPUT_DIR", "pruned"
    )

    assert (tmp_path / "pruned/report.json").exists(), told
    report = json.loads((tmp_path / "pruned/report.json").read_text())
    assert report["flops"]["after"] <= 0.6 * report["flops"]["before"]
    assert "--config-file pruned/config.yaml" in told
    # The evaluator of a loop that is no DefaultTrainer is its own.
    assert ("ap" in report) == (run_script.name != "plain_train_net")

    run_script(
        *("SOLVER.MAX_ITER", 4, "OUTPUT_DIR", "tuned"), config=tmp_path / "pruned/config.yaml"
    )
    pruned = torch.load(tmp_path / "pruned/model_pruned.pth", weights_only=True)
    tuned = torch.load(tmp_path / "tuned/model_final.pth", weights_only=True)
    assert tuned["struct"]["modules"] == pruned["struct"]["modules"] != dense["struct"]["modules"]
    # Frozen norms train again, and count their batches.
    shapes = {name: weight.shape for name, weight in tuned["model"].items()}
    assert shapes.items() >= {name: w.shape for name, w in pruned["model"].items()}.items()
