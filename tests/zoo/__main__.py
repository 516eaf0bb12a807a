"""The zoo: every config, yaml or Python, of detectron2 and AdelaiDet, pruned and put to use.

::

    python -m tests.zoo                                 # all of them: takes an hour on one core
    python -m tests.zoo 'COCO-Keypoints/*' '*retinanet*'
    ADELAIDET_ROOT=~/AdelaiDet python -m tests.zoo 'AdelaiDet/FCOS*'
    DETECTRON2_ROOT=~/detectron2 python -m tests.zoo 'projects/*'
    python -m tests.zoo --export 'COCO-Keypoints/*'     # ONNX: half a minute to two minutes each
    python -m tests.zoo --export --pruned 'COCO-Keypoints/*'

Each model is built with random weights, pruned to half its FLOPs (magnitude, one round), run on an
image, trained one step, saved, loaded and compared bit by bit. Results are kept in ``--output`` (a
JSON file), and configs in it are not run again; tables of all of them are printed at the end::

    ## detectron2, yaml

    | config | GFLOPs | after | M params | after | |
    |---|---|---|---|---|---|
    | COCO-Detection/retinanet_R_50_FPN_1x.yaml | 12.1 | 6.0 | 37.7 | 20.1 | green |

With ``--export``, each model is exported instead (:func:`blendprune.export`), which compares every
file with PyTorch; then the runtime runs the files in ``--engine`` on two images, and must find what
the model finds. A model without known cores is "refused", with the sentence that says why.

Models are those of the configs but for the size of the image and the number of regions that
training samples and inference keeps, which are small, and MEInst's encoding of masks, which is as
random as the weights: the file that it is read from is not part of AdelaiDet's repository. Large
transformers do without activation checkpointing, which saves memory in training by fairscale.
"""

import argparse
import contextlib
import fnmatch
import functools
import logging
import os
import sys
import warnings

import blendprune
from blendprune.errors import TargetUnreachable
from tests.helpers.results import run_and_keep

from .configs import config_names, load_config
from .exports import export_and_run
from .models import prune_and_use
from .table import EXPORTED, PRUNED, zoo_tables


def main(argv=None):
    """Run the configs that the arguments name and print the table.

    Returns:
        int: 0 if all are green.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=["*"], help="globs of config names")
    parser.add_argument("--output", help="results so far, to go on from; zoo.json, exports.json")
    parser.add_argument("--size", type=int, default=128, help="side of the image in pixels")
    parser.add_argument("--again", action="store_true", help="run also what is in the results")
    parser.add_argument("--export", action="store_true", help="export the models instead")
    parser.add_argument("--pruned", action="store_true", help="export them pruned to half")
    parser.add_argument("--engine", default="onnxruntime", help="runs the files")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if "ADELAIDET_ROOT" in os.environ:
        # Before the overlay looks whether it has to stand in for what is not compiled.
        sys.path.insert(0, os.environ["ADELAIDET_ROOT"])
    blendprune.apply()
    chosen = [n for n in config_names() if any(fnmatch.fnmatch(n, p) for p in args.patterns)]
    use, columns, output = _half_or_least, PRUNED, "zoo.json"
    if args.export:
        use = functools.partial(export_config, pruned=args.pruned, engine=args.engine)
        columns, output = EXPORTED, "exports_pruned.json" if args.pruned else "exports.json"
    run = functools.partial(run_config, size=args.size, use=use)
    results = run_and_keep(chosen, run, args.output or output, args.again)
    print(zoo_tables({name: results[name] for name in chosen}, columns))
    return int(any(results[name]["result"] != "green" for name in chosen))


def run_config(name, size, use):
    """Build the model of one config and use it.

    Args:
        name (str): one of :func:`config_names`.
        size (int): side of the image in pixels.
        use (Callable): of the name and the size.

    Returns:
        dict: what ``use`` returns; ``"result"`` is ``"green"`` or the reason why not.
    """
    # Some heads shuffle regions over the processes that train.
    processes = one_process_group() if "shuffle" in name else contextlib.nullcontext()
    try:
        with processes:
            found = use(name, size)
    except Exception as error:  # the table is there to tell what happens
        reason = f"{type(error).__name__}: {str(error).strip()[:300]}".replace("\n", " ")
        found = {"result": reason}
    return found


def export_config(name, size, pruned, engine):
    """Export the model of one config and run the files; see :func:`export_and_run`."""
    return export_and_run(load_config(name), size, pruned, engine)


def _half_or_least(name, size):
    try:
        return prune_and_use(load_config(name), size)
    except TargetUnreachable as error:
        least = error.reachable
    found = prune_and_use(load_config(name), size, least)
    return {**found, "result": f"pruned and used, but to no less than {least:.3f} of its FLOPs"}


@contextlib.contextmanager
def one_process_group():
    """A process group of this process alone."""
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
