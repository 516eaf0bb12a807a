"""AP after pruning, compared with other ways to a smaller model.

::

    python -m benchmarks.accuracy                                  # digits: a day on one core
    python -m benchmarks.accuracy --models blendmask --seeds 1     # one model and seed
    python -m benchmarks.accuracy --dataset DIR                    # your own images

All results of a model and seed start from the same dense model. It is pruned to several FLOPs and
evaluated without fine-tuning. Then it is fine-tuned for a fifth of the dense training, without a
teacher (the default of blendprune) and with distillation from the dense model
(``PRUNER.FINETUNE_DISTILL True``). The last model counts, not the best one (``PRUNER.KEEP_BEST
False``). ``--recipes 5% 50% 100%`` fine-tunes for other parts of the dense training. Controls:

- the dense model, trained on with the same recipe and as many iterations;
- Torch-Pruning's default and random channels, fine-tuned in the same way;
- a uniformly slim model, trained from scratch for as long as training and fine-tuning together.

``blendmask_sparse`` is BlendMask trained with group sparsity, slim models included. The test scenes
of digits show handwriting that was used neither for training nor for any design choice of
blendprune. ``--dataset`` takes a folder in COCO's format: ``DIR/{train,val}`` with the images,
``DIR/annotations/{train,val}.json``.

Results are stored in ``--output``, the most important ones first. Stored steps are not run again.
Start the command several times to share the steps among processes. At the end it draws AP over
FLOPs and over latency to ``curve.png`` and prints the tables of all stored results::

    | FLOPs left | 0.6667 | 0.5 | 0.3333 | 0.25 |
"""

import argparse
import logging
import os
import time
import warnings

import blendprune
from blendprune.errors import BlendpruneError

from .curve import draw_curves
from .data import coco_folder, digit_scenes, name_of
from .methods import LEVELS, METHODS, RECIPES, USUAL
from .models import DEPTHS, MODELS
from .runs import Runs
from .steps import run_steps
from .table import read, tables


def main(argv=None):
    """Run the steps without results; print the tables."""
    parser = _parser()
    args = parser.parse_args(argv)
    until = time.monotonic() + args.budget
    blendprune.apply()
    try:
        output, data = _data(args)
        steps = [
            step
            for seed in args.seeds
            for model in args.models
            for step in Runs(
                os.path.join(output, model, str(seed)),
                *(model, seed, data, _overrides(args)),
                *(args.methods, args.levels, args.recipes),
            ).steps()
        ]
    except BlendpruneError as error:
        parser.exit(2, f"error: {error}\n")
    left, failed = run_steps(steps, until)
    if read(output):
        print(tables(output))
        draw_curves(output, os.path.join(output, "curve.png"))
    if left:
        print(f"{len(left)} steps are left: the same command goes on.")
    if failed:
        parser.exit(1, f"error: {', '.join(step.name for step in failed)} failed, see above.\n")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__.splitlines()[0]
    )
    choose = {"nargs": "*", "metavar": "NAME"}
    methods = (*METHODS, "slim")
    for flag, names, default in (
        ("models", MODELS, MODELS),
        ("methods", methods, methods),
        ("recipes", tuple(RECIPES), USUAL),
    ):
        # argparse formats help texts with %.
        described = ", ".join(names).replace("%", "%%")
        parser.add_argument(f"--{flag}", default=default, choices=names, help=described, **choose)
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3], metavar="N")
    parser.add_argument(
        "--levels",
        **{"nargs": "*", "type": float, "default": LEVELS, "metavar": "X"},
        help="FLOPs to keep, as fractions",
    )
    parser.add_argument(
        "--dataset", metavar="DIR", help="{train,val} and annotations/{train,val}.json"
    )
    parser.add_argument("--sizes", metavar="FILE", help="sizes for its objects (YAML)")
    parser.add_argument("--output", metavar="DIR", help="default: output/accuracy or output/NAME")
    parser.add_argument(
        "--budget", type=float, default=float("inf"), metavar="S", help="begin no step after that"
    )
    parser.add_argument("--device", help="cpu (default) or cuda")
    parser.add_argument("--depth", type=int, choices=DEPTHS, default=18, help="of the ResNet")
    parser.add_argument("--iterations", type=int, metavar="N", help="of the dense training")
    parser.add_argument("--batch", type=int, metavar="N", help="images per iteration")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load images")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def _data(args):
    """The folder for the results, and the data set."""
    if args.dataset:
        output = args.output or os.path.join("output", name_of(args.dataset))
        return output, coco_folder(args.dataset, args.sizes)
    output = args.output or os.path.join("output", "accuracy")
    return output, digit_scenes(os.path.join(output, "digits"))


def _overrides(args):
    """The flags as ``KEY VALUE`` pairs, then those of the user."""
    flags = {
        "MODEL.DEVICE": args.device,
        "SOLVER.MAX_ITER": args.iterations,
        "SOLVER.IMS_PER_BATCH": args.batch,
        "DATALOADER.NUM_WORKERS": args.workers,
    } | DEPTHS[args.depth]
    pairs = [[key, value] for key, value in flags.items() if value is not None]
    return [*sum(pairs, []), *args.opts]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    main()
