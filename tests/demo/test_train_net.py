"""The training script; ``tests/docs/test_runs.py`` prunes and fine-tunes with it."""

import pytest
from detectron2.engine import default_argument_parser

from blendprune.data.digits import write_digits
from blendprune.demo.data import SCENES
from blendprune.demo.story import CONFIG
from tests.helpers.digit_scenes import forget_digits

# Four iterations: the first three have no time, and so no line of progress.
SMALL = [
    *("SOLVER.MAX_ITER", 4, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.WARMUP_ITERS", 1),
    *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.BASIS_MODULE.CONVS_DIM", 32),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64),
]


@pytest.fixture
def script(overlay, tmp_path, monkeypatch):
    """A function that calls the script with arguments, in a folder with a few of the scenes."""
    from blendprune.demo import train_net

    monkeypatch.chdir(tmp_path)
    write_digits(SCENES, num_train=4, num_test=1, image_size=64)
    yield lambda *args: train_net.main(default_argument_parser().parse_args(map(str, args)))
    forget_digits()


def test_it_trains_and_evaluates(script, tmp_path, capfd):
    trained = script("--config-file", CONFIG, *SMALL, "OUTPUT_DIR", tmp_path)
    assert "iteration    4 / 4   loss" in capfd.readouterr().out
    weights = ["MODEL.WEIGHTS", tmp_path / "model_final.pth"]
    found = script("--config-file", tmp_path / "config.yaml", "--eval-only", *weights)
    assert found.keys() == trained.keys() == {"bbox", "segm"}
