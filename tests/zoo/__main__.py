"""The zoo: every config, yaml or Python, of detectron2 and AdelaiDet, pruned and put to use.

::

    python -m tests.zoo                                 # all of them: takes an hour on one core
    python -m tests.zoo 'COCO-Keypoints/*' '*retinanet*'
    ADELAIDET_ROOT=~/AdelaiDet python -m tests.zoo 'AdelaiDet/FCOS*'
    DETECTRON2_ROOT=~/detectron2 python -m tests.zoo 'projects/*'

Each model is built with random weights, pruned to half its FLOPs (magnitude, one round), run on an
image, trained one step, saved, loaded and compared bit by bit. Results are kept in ``--output`` (a
JSON file), and configs in it are not run again; tables of all of them are printed at the end::

    ## detectron2, yaml

    | config | GFLOPs | after | M params | after | |
    |---|---|---|---|---|---|
    | COCO-Detection/retinanet_R_50_FPN_1x.yaml | 12.1 | 6.0 | 37.7 | 20.1 | green |

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
from .models import prune_and_use
from .table import zoo_tables


def main(argv=None):
    """Run the configs that the arguments name and print the table.

    Returns:
        int: 0 if all are green.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=["*"], help="globs of config names")
    parser.add_argument("--output", default="zoo.json", help="results so far, to go on from")
    parser.add_argument("--size", type=int, default=128, help="side of the image in pixels")
    parser.add_argument("--again", action="store_true", help="run also what is in the results")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if "ADELAIDET_ROOT" in os.environ:
        # Before the overlay looks whether it has to stand in for what is not compiled.
        sys.path.insert(0, os.environ["ADELAIDET_ROOT"])
    blendprune.apply()
    chosen = [n for n in config_names() if any(fnmatch.fnmatch(n, p) for p in args.patterns)]
    run = functools.partial(run_config, size=args.size)
    results = run_and_keep(chosen, run, args.output, args.again)
    print(zoo_tables({name: results[name] for name in chosen}))
    return int(any(results[name]["result"] != "green" for name in chosen))


def run_config(name, size=128):
    """Build, prune, use and reload the model of one config.

    Args:
        name (str): one of :func:`config_names`.
        size (int): side of the image in pixels.

    Returns:
        dict: ``"result"`` is ``"green"`` or the reason why not; ``"flops"`` and ``"params"``, each
        before and after, where it could be pruned and used.
    """
    # Some heads shuffle regions over the processes that train.
    processes = one_process_group() if "shuffle" in name else contextlib.nullcontext()
    try:
        with processes:
            found = _half_or_least(name, size)
    except Exception as error:  # the table is there to tell what happens
        reason = f"{type(error).__name__}: {str(error).strip()[:300]}".replace("\n", " ")
        found = {"result": reason}
    return found


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
