"""Backbones of torchvision and timm in a RetinaNet, pruned and put to use.

::

    python -m tests.backbones                       # all of them: about ten minutes on one core
    python -m tests.backbones 'torchvision/*' '*convnext*'

Each is built with random weights, pruned to half its FLOPs (magnitude, one round), run on an image,
trained one step, saved, loaded and compared bit by bit. Results are kept in ``--results`` (a JSON
file); what is in it is not run again. ``--table`` writes a table of all of them.
"""

import argparse
import fnmatch
import importlib.util
import logging
import pathlib
import sys
import warnings

import torch

import blendprune
from tests.helpers.results import run_and_keep

from .names import NAMES, build_backbone
from .table import backbone_table


def main(argv=None):
    """Run the backbones that the arguments name.

    Returns:
        int: 0 if all are green.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.backbones", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("patterns", nargs="*", default=["*"], help="globs of names")
    parser.add_argument("--results", default="backbones.json", help="results so far, to go on from")
    parser.add_argument("--table", help="Markdown file to write")
    parser.add_argument("--again", action="store_true", help="run also what is in the results")
    args = parser.parse_args(argv)
    chosen = [n for n in NAMES if any(fnmatch.fnmatch(n, p) for p in args.patterns)]
    if any(n.startswith("timm/") for n in chosen) and not importlib.util.find_spec("timm"):
        print("timm is not installed: pip install timm, or name 'torchvision/*'", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    blendprune.apply()
    results = run_and_keep(chosen, run_backbone, args.results, args.again)
    known = {name: results[name] for name in NAMES if name in results}
    if args.table:
        pathlib.Path(args.table).write_text(backbone_table(known))
    return int(any(results[name]["result"] != "green" for name in chosen))


def run_backbone(name, size=128):
    """Prune one backbone in a RetinaNet to half its FLOPs and use it.

    Args:
        name (str): one of :data:`NAMES`.
        size (int): side of the image in pixels.

    Returns:
        dict: ``"result"`` (``"green"`` or what went wrong), and the report's FLOPs and notes.
    """
    from .use import prune_and_use

    torch.manual_seed(0)
    try:
        return prune_and_use(lambda: build_backbone(name), size)
    except Exception as error:
        return {"result": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    sys.exit(main())
