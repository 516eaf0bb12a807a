"""Time of a plan and of pruning, for different numbers of layers.

::

    python -m benchmarks.speed                 # three depths, 1 and 2 threads; ten minutes
    python -m benchmarks.speed --depths 50 --threads 1 --runs 1

The model is Mask R-CNN FPN with random weights, at its config's test size (800 px). Timed are
`blendprune.plan`, and `blendprune.prune` to half the FLOPs by magnitude in one round. Times are
medians of ``--runs``. One plan runs untimed first, because it imports modules. ``cpu`` is the CPU
time of the process over all threads; on a busy machine it varies less than the wall-clock time.
``its proof`` and ``its own runs`` are parts of it: the comparison of every group with masking, and
the model's own forward before and after.
"""

import argparse
import contextlib
import copy
import functools
import logging
import statistics
import time
import warnings

import torch
from tabulate import tabulate

import blendprune
from blendprune.pruning.graph import proof
from blendprune.pruning.search.rounds import PruningRun
from blendprune.pruning.tracing.layer_kinds import is_prunable_layer

_CHECKS = {"proof": (proof._Proof, "__call__"), "own runs": (PruningRun, "try_own_runs")}
_CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[50, 101, 152])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    blendprune.apply()
    rows = [measure(depth, threads, args.runs) for depth in args.depths for threads in args.threads]
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".2f"))


def measure(depth, threads, runs):
    """Time plan and pruning of one model.

    Args:
        depth (int): depth of the ResNet.
        threads (int): PyTorch's number of threads.
        runs (int): number of runs; the result is their median.

    Returns:
        dict: a row of the table, with times in seconds.
    """
    torch.set_num_threads(threads)
    model = _build(depth)
    blendprune.plan(model)
    with _timed(_CHECKS) as in_plan:
        plan, plan_cpu = _median(lambda _: blendprune.plan(model), [None] * runs)
    with _timed(_CHECKS) as in_prune:
        pruning, pruning_cpu = _median(
            lambda copied: blendprune.prune(
                copied, max_flops=0.5, importance="magnitude", rounds=1
            ),
            (copy.deepcopy(model) for _ in range(runs)),
        )
    return {
        "Mask R-CNN FPN": f"R-{depth}",
        "layers": sum(is_prunable_layer(module) for module in model.modules()),
        "threads": threads,
        "plan (s)": plan,
        "cpu": plan_cpu,
        "its proof": statistics.median(in_plan["proof"]),
        "prune (s)": pruning,
        "cpu ": pruning_cpu,
        "its proof ": statistics.median(in_prune["proof"]),
        "its own runs": statistics.median(in_prune["own runs"]),
    }


@contextlib.contextmanager
def _timed(methods):
    """Collect the seconds of every call of some methods, by name."""
    seconds = {name: [] for name in methods}

    def timed(method, found):
        @functools.wraps(method)
        def run(*args):
            start = time.perf_counter()
            try:
                return method(*args)
            finally:
                found.append(time.perf_counter() - start)

        return run

    before = {name: getattr(*where) for name, where in methods.items()}
    for name, where in methods.items():
        setattr(*where, timed(before[name], seconds[name]))
    try:
        yield seconds
    finally:
        for name, where in methods.items():
            setattr(*where, before[name])


def _build(depth):
    from detectron2 import model_zoo
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(_CONFIG))
    cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.DEPTH = "cpu", depth
    return build_model(cfg).eval()


def _median(run, inputs):
    wall, cpu = [], []
    for value in inputs:
        start, start_cpu = time.perf_counter(), time.process_time()
        run(value)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return statistics.median(wall), statistics.median(cpu)


if __name__ == "__main__":
    main()
