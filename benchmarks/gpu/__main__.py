"""Speed of dense and pruned models on a GPU, from random weights.

::

    python -m benchmarks.gpu                                        # at most --budget, 290 s
    python -m benchmarks.gpu --device cpu --small --size 128 128    # to try it

Models: Mask R-CNN R-50 FPN, and BlendMask R-50 with batch norms in its towers. They are pruned by
magnitude to a half and a third of their FLOPs, with free widths or multiples of 8, 16, 32 and 64.

Dense and pruned models take turns. ``whole`` is the time of the model on images that are on the
device: everything that a user waits for. Thresholds of scores are set so that NMS works on 500
boxes. ``core`` is the time of the convs and linears alone, on the inputs that they had, with 1000
proposals and 100 detections per image in a Mask R-CNN.

``eager`` in fp16 and bf16 is automatic mixed precision. ``deployed`` is ``blendprune.deploy``:
folded norms, channels_last, weights in half precision. On top, ``compiled`` compiles the core,
and ``cuda graphs`` compiles it in the mode ``reduce-overhead``.

Results are written to ``--output`` after each step. A step that does not fit into ``--budget`` is
left out.
"""

import argparse
import json
import logging
import os
import platform
import time
import traceback
import warnings

import torch

import blendprune

from .models import MODELS
from .tables import tables
from .work import Work


def main(argv=None):
    """Run the steps and print the tables."""
    args = _parse(argv)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    blendprune.apply()
    begin = time.perf_counter()
    work = Work(
        args.device,
        *args.size,
        args.small,
        args.runs,
        args.models,
        args.batches,
        args.round_to,
    )
    results = {"machine": machine(args.device), "size": args.size, "steps": {}, "left out": []}
    os.makedirs(os.path.dirname(args.output) or ".", exist_ok=True)
    for step in work.steps():
        if args.steps and not any(part in step.name for part in args.steps):
            continue
        if time.perf_counter() - begin + step.seconds > args.budget:
            results["left out"].append(step.name)
            continue
        start = time.perf_counter()
        try:
            found = step.run()
        except Exception as error:
            # A step that fails must not cost the results of the others.
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
        seconds = round(time.perf_counter() - start, 1)
        results["steps"][step.name] = {"seconds": seconds, "found": found}
        print(f"{time.perf_counter() - begin:6.1f} s  {step.name}: {seconds} s", flush=True)
        _keep(results, args.output)
    _keep(results, args.output)
    print(tables(results))


def _keep(results, path):
    with open(path, "w") as file:
        json.dump(results, file, indent=1)


def machine(device):
    """The device and the versions of what runs on it.

    Args:
        device (str): ``"cuda"`` or ``"cpu"``.

    Returns:
        dict[str, str]: by name.
    """
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if device == "cuda":
        found["device"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())
    else:
        found["device"] = f"CPU, {torch.get_num_threads()} threads"
    return found


def _parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1333], metavar=("H", "W"))
    parser.add_argument("--small", action="store_true", help="narrow models")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--round-to", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument("--runs", type=int, default=20, help="timed forwards of each model")
    parser.add_argument("--budget", type=float, default=290, metavar="SECONDS")
    parser.add_argument("--steps", nargs="+", metavar="TEXT", help="steps whose name has this")
    parser.add_argument("--output", default="output/gpu.json", metavar="FILE")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
