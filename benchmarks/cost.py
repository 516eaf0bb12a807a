"""Time and memory of a prune with ``obs`` and reconstruction, over models, sizes and images.

::

    python -m benchmarks.cost                       # BlendMask R-18 and R-50: an hour
    python -m benchmarks.cost --models mask_rcnn --depths 50 --sizes 800x1333 --images 4

Weights and images are random. Each row is a process of its own, with one thread: first the training
forward and backward of one image, then a prune to 0.65 of the FLOPs in one round. ``prune`` and the
stages are seconds of the wall clock. ``passes`` is the time of the prune less 60 s, in forwards and
backwards of all its images. ``beyond`` is how far the peak memory of the process rises above that
of the forward and backward.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
import warnings

import torch
from tabulate import tabulate

import blendprune
from blendprune.pruning.scores.losses import accumulate_gradients
from blendprune.pruning.tracing.view import prunable

from .gpu.models import MODELS, dense_model, images_of

_STAGES = ("tracing", "scoring", "dense features", "replay", "solving", "checks")
_FIXED_S = 60


def main(argv=None):
    args = _parser().parse_args(argv)
    if args.row:
        print(json.dumps(measure(**json.loads(args.row))))
        return
    rows = []
    for name in args.models:
        for depth in args.depths:
            for size in args.sizes:
                for count in args.images:
                    rows.append(_in_new_process(name, depth, size, count))
                    print(tabulate(rows[-1:], headers="keys", tablefmt="pipe"), flush=True)
    print(tabulate(rows, headers="keys", tablefmt="pipe"))


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--models", nargs="+", default=["blendmask"], choices=MODELS)
    parser.add_argument("--depths", nargs="+", type=int, default=[18, 50])
    parser.add_argument("--sizes", nargs="+", default=["320x320", "544x544", "800x1333"])
    parser.add_argument("--images", nargs="+", type=int, default=[4, 16])
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser


def _in_new_process(name, depth, size, count):
    height, width = map(int, size.split("x"))
    row = {"name": name, "depth": depth, "height": height, "width": width, "count": count}
    command = [sys.executable, "-m", "benchmarks.cost", "--row", json.dumps(row)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def measure(name, depth, height, width, count):
    """Prune one model in this process.

    Args:
        name (str): of the model, one of those of ``benchmarks.gpu``.
        depth (int): of its ResNet.
        height (int), width (int): of the images, in pixels.
        count (int): number of images.

    Returns:
        dict: a row of the table.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    blendprune.apply()
    model = dense_model(name, "cpu", depth=depth)
    images = images_of(height, width, "cpu", count)
    start = time.process_time()
    with prunable(model):
        accumulate_gradients(model, [[images[0]]])
    model.zero_grad(set_to_none=True)
    once, before = time.process_time() - start, _peak_mb()
    start, cpu = time.perf_counter(), time.process_time()
    report = blendprune.prune(
        model, images[:1], data=[[image] for image in images], max_flops=0.65, rounds=1
    )
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "model": f"{name} R-{depth}",
        "size": f"{height} x {width}",
        "images": count,
        "forward and backward (s)": round(once, 1),
        "prune (s)": round(wall, 1),
        "cpu (s)": round(cpu, 1),
        "passes": round((cpu - _FIXED_S) / (once * count), 2),
        **{stage: round(report.seconds.get(stage, 0), 1) for stage in _STAGES},
        "peak (GB)": round(_peak_mb() / 1e3, 2),
        "beyond (GB)": round((_peak_mb() - before) / 1e3, 2),
    }


def _peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
