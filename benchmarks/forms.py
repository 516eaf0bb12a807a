"""Speed of dense and pruned models in every form that they are shipped in.

::

    python -m benchmarks.forms                            # half an hour, one thread
    python -m benchmarks.forms --models blendmask-50 --runs 7

Random weights; thresholds of scores are set so that NMS works on 500 boxes. Models are pruned by
magnitude. All models and forms of a table take turns in one run (``blendprune.bench``). The second
table has the goals' units: how much of the FLOPs ratio the clock shows, against the dense model in
eager PyTorch and against the dense model in the same form, for whole calls and for the network.
"""

import argparse
import json
import logging
import math
import os
import warnings
from unittest import mock

import torch
from tabulate import tabulate

import blendprune
from blendprune.deployment.bench import bench_table
from blendprune.deployment.export import int8

from .gpu.models import dense_model, images_of, limit_candidates, pruned_model

# Name → (model, depth, side in pixels).
MODELS = {
    "blendmask-50": ("blendmask", 50, 544),
    "blendmask-18": ("blendmask", 18, 544),
    "mask_rcnn-50": ("mask_rcnn", 50, 800),
}
_FORMS = ("eager", "deployed", "bfloat16", "onnxruntime", "openvino", "openvino-int8")
_CALIBRATION = 4  # images


def main(argv=None):
    """Measure, and print two tables for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--levels", type=float, nargs="+", default=[0.5, 1 / 3, 0.25])
    parser.add_argument("--forms", nargs="+", default=list(_FORMS))
    parser.add_argument("--round-to", default="auto", help="auto, or a number")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="narrow models, to try it")
    parser.add_argument("--output", default="output/forms")
    args = parser.parse_args(argv)
    begin(args.output)
    for name in args.models:
        found = measure(name, args)
        with open(os.path.join(args.output, f"{name}.json"), "w") as file:
            json.dump(found, file, indent=2)
        print(f"## {name}\n\n{bench_table(found)}\n\n{ratios(found)}\n", flush=True)


def begin(output):
    """Apply the overlay, without warnings, and make the folder of the results."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    blendprune.apply()
    os.makedirs(output, exist_ok=True)


def dense_and_images(name, small):
    """A model with random weights, and an image for it.

    Args:
        name (str): a key of :data:`MODELS`.
        small (bool): a narrow model and a small image.

    Returns:
        tuple[nn.Module, list[dict]]: in detectron2's format.
    """
    kind, depth, side = MODELS[name]
    side = 128 if small else side
    images = [{"image": x["image"]} for x in images_of(side, side, "cpu", 1)]
    return dense_model(kind, "cpu", small, depth), images


def measure(name, args):
    """Time the dense model and the pruned ones in all forms.

    Args:
        name (str): a key of :data:`MODELS`.
        args (Namespace): of the command line.

    Returns:
        dict: see :func:`blendprune.bench`.
    """
    dense, images = dense_and_images(name, args.small)
    round_to = args.round_to if args.round_to == "auto" else int(args.round_to)
    models = {"dense": dense}
    for level in args.levels:
        models[f"{1 / level:.3g}x"], _ = pruned_model(dense, images, level, round_to)
    with torch.no_grad():
        for model in models.values():
            limit_candidates(model, images)
    side = images[0]["image"].shape[-1]
    data = [[{"image": x["image"]}] for x in images_of(side, side, "cpu", _CALIBRATION)]
    how = {"forms": args.forms, "runs": args.runs, "threads": args.threads, "data": data}
    # The error of int8 grows through layers with random weights: the search would leave a quarter
    # of them in float. Of models that have learned, only the first conv stays.
    with mock.patch.object(int8, "_ERROR", math.inf):
        return blendprune.bench(models, images, network=True, **how)


def ratios(found):
    """Draw what the clock shows of the FLOPs ratio.

    Args:
        found (dict): from :func:`measure`.

    Returns:
        str: a table.
    """
    rows = [
        [
            row["model"],
            row["form"],
            1 / row["flops"],
            row["speedup"],
            row["speedup"] * row["flops"],
            row["speedup_in_form"] * row["flops"],
            row["network_speedup"] * row["flops"],
            row["network_speedup_in_form"] * row["flops"],
        ]
        for row in found["rows"]
        if "ms" in row and row["flops"] < 1
    ]
    headers = ["model", "form", "fewer FLOPs", "times faster", "÷ FLOPs ratio", "in the same form"]
    headers += ["network alone", "in the same form"]
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f")


if __name__ == "__main__":
    main()
