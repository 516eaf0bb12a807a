"""A script that prunes in several processes, of one machine and of two, by the documented commands.

The machines are this one. A CPU takes the place of each GPU.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine.launch import _find_free_port
from detectron2.modeling import build_model

import blendprune

TRAIN_NET = """
import functools, os, signal
import blendprune
blendprune.apply()
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup
from detectron2.engine import defaults, launch
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from blendprune import modeling
from blendprune.data.digits import register_digits

class Mapper(DatasetMapper):
    def __call__(self, entry):
        if os.environ.get("DIES") == str(comm.get_rank()):
            open("died", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(entry)

class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=Mapper(cfg, True))

    @classmethod
    def build_evaluator(cls, cfg, name):
        return COCOEvaluator(name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))

def main(args):
    modeling.register()
    # Upstream's gives each process a GPU.
    defaults.create_ddp_model = functools.partial(defaults.create_ddp_model, device_ids=None)
    register_digits(os.environ["DATA"])
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    default_setup(cfg, args)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()

if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args,))
"""
# What each machine adds to the command.
JOBS = {
    "one machine": ["--num-gpus 2 --dist-url auto"],
    "two machines": [
        "--num-gpus 1 --num-machines 2 --machine-rank 0 --dist-url tcp://127.0.0.1:{port}",
        "--num-gpus 1 --num-machines 2 --machine-rank 1 --dist-url tcp://127.0.0.1:{port}",
    ],
}


@pytest.fixture
def start(registered, blendmask_cfg, tmp_path):
    """A function that starts a job: a process for each machine."""
    from blendprune.data.digits import DIGITS_TEST, DIGITS_TRAIN, write_digits

    (tmp_path / "train_net.py").write_text(TRAIN_NET)
    data = write_digits(tmp_path / "data", num_train=4, num_test=2, image_size=64)
    cfg = blendmask_cfg(
        *("DATASETS.TRAIN", (DIGITS_TRAIN,), "DATASETS.TEST", (DIGITS_TEST,)),
        *("INPUT.MASK_FORMAT", "bitmask", "INPUT.MIN_SIZE_TRAIN", (64,)),
        *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 4, "DATALOADER.NUM_WORKERS", 0),
        *("MODEL.FCOS.NUM_CLASSES", 10, "MODEL.BASIS_MODULE.NUM_CLASSES", 10),
        *("MODEL.BASIS_MODULE.LOSS_ON", False, "PRUNER.ROUNDS", 1),
        *("PRUNER.CALIBRATION_IMAGES", 4, "PRUNER.IMPORTANCE", "taylor"),
    )
    DetectionCheckpointer(build_model(cfg), str(tmp_path)).save("dense")
    cfg.MODEL.WEIGHTS = str(tmp_path / "dense.pth")
    (tmp_path / "dense.yaml").write_text(cfg.dump())
    running = []

    def run(job, config, *opts, **environment):
        port = _find_free_port()
        for arguments in JOBS[job]:
            command = [sys.executable, "-W", "ignore", "train_net.py", "--config-file", config]
            path = os.pathsep.join([str(tmp_path), *sys.path])
            running.append(
                subprocess.Popen(
                    [*command, *arguments.format(port=port).split(), *map(str, opts)],
                    cwd=tmp_path,
                    env={**os.environ, "PYTHONPATH": path, "DATA": str(data), **environment}
                    | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        machines = running[-len(JOBS[job]) :]
        return [(machine.communicate()[0], machine.returncode) for machine in machines]

    yield run
    for machine in running:
        machine.kill()


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_job_prunes_and_fine_tunes(start, job, tmp_path):
    target = ("MODEL.PRUNE", True, "PRUNER.MAX_FLOPS", 0.5, "OUTPUT_DIR", "out")
    for said, code in start(job, "dense.yaml", *target):
        assert code == 0, said[-3000:]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert 0.45 < report["flops"]["after"] / report["flops"]["before"] <= 0.5
    assert set(report["ap"]["pruned"]) == {"bbox", "segm"}
    for said, code in start(job, "out/config.yaml"):
        assert code == 0, said[-3000:]
    final = blendprune.load(str(tmp_path / "out/finetune/model_final.pth"))
    assert sum(p.numel() for p in final.parameters()) == report["params"]["after"]


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_process_that_dies_ends_every_machine(start, job, tmp_path):
    target = ("MODEL.PRUNE", True, "PRUNER.MAX_FLOPS", 0.5, "OUTPUT_DIR", "out")
    machines = start(job, "dense.yaml", *target, DIES="1")
    assert time.time() - os.path.getmtime(tmp_path / "died") < 60
    assert all(code not in (0, -signal.SIGKILL) for _, code in machines)
    assert "SIGKILL" in machines[-1][0]
    # On the other machine nobody ends the process that waits.
    if job == "two machines":
        assert "DistributedError: process 0 has lost another one" in machines[0][0]
