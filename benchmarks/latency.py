"""Whether ``max_latency`` holds when the pruned model is measured again.

::

    python -m benchmarks.latency                               # a quarter of an hour, one thread
    python -m benchmarks.latency --models blendmask-18 --runtimes onnxruntime

Random weights, pruned by magnitude to both targets in one run. "Again" is a second measurement in
the same process, of the same kind; "whole call" is ``blendprune.bench``: everything from images to
instances, with whatever is detected.
"""

import argparse
import copy
import json
import os
import time

import torch
from tabulate import tabulate

import blendprune
from blendprune.errors import BlendpruneError
from blendprune.pruning.cost.clock import FormClock

from .forms import MODELS, begin, dense_and_images
from .gpu.models import limit_candidates

_RUNTIMES = ("eager", "deployed", "compiled", "onnxruntime", "openvino")


def main(argv=None):
    """Prune, measure again, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["blendmask-18"])
    parser.add_argument("--runtimes", nargs="+", default=list(_RUNTIMES))
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5, 1 / 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="narrow models, to try it")
    parser.add_argument("--output", default="output/latency")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    begin(args.output)
    rows = []
    for name in args.models:
        for runtime in args.runtimes:
            rows += measure(name, runtime, args)
            with open(os.path.join(args.output, "latency.json"), "w") as file:
                json.dump(rows, file, indent=2)
    headers = {
        "model": "model", "runtime": "runtime", "target": "target", "ms": "ms", "found": "reached",
        "again": "again", "whole": "whole call", "flops": "FLOPs", "seconds": "s", "error": "",
    }  # fmt: skip
    print(tabulate([{key: row.get(key) for key in headers} for row in rows], headers,
                   tablefmt="pipe", floatfmt=".3f"))  # fmt: skip


def measure(name, runtime, args):
    """Prune a model to all targets in one runtime.

    Args:
        name (str): a key of ``benchmarks.forms.MODELS``.
        runtime (str): see :func:`blendprune.prune`.
        args (Namespace): of the command line.

    Returns:
        list[dict]: for each target what was reached, as fractions of the dense model's latency.
    """
    model, images = dense_and_images(name, args.small)
    with torch.no_grad():
        limit_candidates(model, images)
    clock, dense = FormClock(runtime, model, images, 16), copy.deepcopy(model)
    rows, start = [], time.perf_counter()
    *levels, last = sorted(args.targets, reverse=True)

    def note(target, report):
        again, models = clock(model), {"dense": dense, "pruned": model}
        with torch.no_grad():
            for each in models.values():
                limit_candidates(each, images)
        whole = blendprune.bench(models, images, forms=[runtime], runs=9, threads=args.threads)
        times = {row["model"]: row.get("ms") for row in whole["rows"]}
        rows.append(
            {
                "model": name,
                "runtime": runtime,
                "target": target,
                "ms": report.latency_ms["before"],
                "found": report.latency_ms["after"] / report.latency_ms["before"],
                "again": again,
                "whole": times["pruned"] / times["dense"] if all(times.values()) else None,
                "flops": report.flops["after"] / report.flops["before"],
                "seconds": time.perf_counter() - start,
            }
        )
        print(rows[-1], flush=True)

    try:
        report = blendprune.prune(
            model, images, max_latency=last, levels=levels, on_level=note, runtime=runtime,
            importance="magnitude",
        )  # fmt: skip
        note(last, report)
    except BlendpruneError as error:
        rows.append({"model": name, "runtime": runtime, "target": last, "error": str(error)})
    return rows


if __name__ == "__main__":
    main()
