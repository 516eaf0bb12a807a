"""What pruning leaves of the AP on digit scenes, against other ways to a smaller model.

::

    python -m benchmarks.accuracy                                  # all; half a day on one core
    python -m benchmarks.accuracy --models blendmask --seeds 1     # one of them: an hour

Every figure of one model and seed comes from the same dense model: pruned to several FLOPs and
evaluated as it is, and fine-tuned for a fifth of the dense training by the emitted config, in which
the dense model teaches, and without a teacher. Controls: the dense model under the same recipe;
Torch-Pruning's default and random channels, fine-tuned by the same config; a uniformly slim model
that trains from scratch for as long as training and fine-tuning together. The model
``blendmask_sparse`` is BlendMask trained, slim ones too, under group sparsity. Test scenes show
handwriting that neither training nor any choice made for blendprune has seen.

A picture of AP over FLOPs and over latency, ``curve.png``, is drawn beside the results, which are
kept in ``--output``; what is there is not run again, and runs of other models and seeds may go on
beside this one. At the end the tables of all that is there are printed::

    | FLOPs left | 0.6667 | 0.5 | 0.3333 | 0.25 |
"""

import argparse
import logging
import os
import warnings

import blendprune
from blendprune.demo.digits import register_digits, write_digits
from blendprune.demo.story import NUM_TEST, NUM_TRAIN

from .curve import draw_curves
from .models import MODELS
from .runs import METHODS, Runs
from .table import tables


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    methods = (*METHODS, "slim")
    parser.add_argument("--methods", nargs="*", default=methods, choices=methods)
    parser.add_argument("--output", default="output/accuracy", metavar="DIR")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    blendprune.apply()
    scenes = os.path.join(args.output, "digits")
    register_digits(write_digits(scenes, NUM_TRAIN, NUM_TEST))
    for seed in args.seeds:
        for model in args.models:
            folder = os.path.join(args.output, model, str(seed))
            Runs(folder, model, seed, args.opts, args.methods).run()
    print(tables(args.output))
    draw_curves(args.output, os.path.join(args.output, "curve.png"))


if __name__ == "__main__":
    main()
