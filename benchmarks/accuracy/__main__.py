"""AP after pruning on digit scenes, compared with other ways to a smaller model.

::

    python -m benchmarks.accuracy                                  # all: half a day on one core
    python -m benchmarks.accuracy --models blendmask --seeds 1     # one model and seed: an hour

All results of a model and seed start from the same dense model. It is pruned to several FLOPs and
evaluated without fine-tuning. Then it is fine-tuned for a fifth of the dense training, with
distillation from the dense model (``PRUNER.FINETUNE_DISTILL True``) and without a teacher. The last
model counts, not the best one (``PRUNER.KEEP_BEST False``). Controls:

- the dense model, trained on with the same recipe;
- Torch-Pruning's default and random channels, fine-tuned with distillation;
- a uniformly slim model, trained from scratch for as long as training and fine-tuning together.

``blendmask_sparse`` is BlendMask trained with group sparsity, slim models included. The test scenes
show handwriting that was used neither for training nor for any design choice of blendprune.

Results are stored in ``--output``. Stored steps are not run again, and other models and seeds can
run at the same time. At the end it draws AP over FLOPs and over latency to ``curve.png`` and prints
the tables of all stored results::

    | FLOPs left | 0.6667 | 0.5 | 0.3333 | 0.25 |
"""

import argparse
import logging
import os
import warnings

import blendprune
from blendprune.data.digits import register_digits, write_digits
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
