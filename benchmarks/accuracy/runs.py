"""Train, prune, fine-tune and evaluate one dense model; each step runs once."""

import contextlib
import io
import json
import os

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import build_detection_test_loader
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng

from blendprune.checkpoint.build import build_trained
from blendprune.checkpoint.loading import load
from blendprune.demo.trainer import DigitTrainer, average_precisions
from blendprune.errors import ConfigError
from blendprune.files import staged
from blendprune.pipeline import prune_from_config
from blendprune.pipeline.finetune import finetune_config
from blendprune.pruning.cost.latency import compare_latency

from .methods import LEVELS, METHODS, RECIPES, SCHEDULE, TUNED, USUAL
from .models import dense_config
from .steps import Results, Step

# Checkpoints by suffix of the step, relative to the folder of the pruned model.
_FILES = {"": "model_pruned.pth"} | {
    recipe.suffix: os.path.join(recipe.folder, "model_final.pth") for recipe in RECIPES.values()
}
# What may change between two runs that share results.
_PLACES = ("MODEL.DEVICE", "DATALOADER.NUM_WORKERS", "OUTPUT_DIR")


class Runs:
    """All steps of one model and one seed.

    Args:
        folder (str): for checkpoints and ``results.json``.
        model (str): one of :data:`benchmarks.accuracy.models.MODELS`.
        seed (int): see :func:`benchmarks.accuracy.models.dense_config`.
        data (Data): the data set.
        opts (Sequence): ``KEY VALUE`` pairs that override the config.
        methods (Sequence[str]): names of :data:`METHODS`; ``"slim"`` for models from scratch.
        levels (Sequence[float]): FLOPs to keep, as fractions.
        recipes (Sequence[str]): names of :data:`RECIPES`.

    Raises:
        ConfigError: the folder has results of another config.
    """

    def __init__(
        self,
        folder,
        model,
        seed,
        data,
        opts=(),
        methods=(*METHODS, "slim"),
        levels=LEVELS,
        recipes=USUAL,
    ):
        self.folder = os.path.abspath(folder)
        os.makedirs(self.folder, exist_ok=True)
        self.results = Results(os.path.join(self.folder, "results.json"))
        self.cfg = dense_config(model, seed, data, opts)
        self.cfg.OUTPUT_DIR = os.path.join(self.folder, "dense")
        self._check_config()
        self.levels = sorted(levels, reverse=True)
        self.tuned = [level for level in self.levels if level in TUNED]
        self.methods = methods
        self.recipes = [recipe for name, recipe in RECIPES.items() if name in recipes]

    def steps(self):
        """The steps, the most important ones first.

        Returns:
            list[Step]: what each step needs is before it.
        """
        untrained = self.cfg
        steps = [self._step("dense", lambda: _train(untrained), needs=())]
        self.cfg = untrained.clone()
        self.cfg.MODEL.WEIGHTS = os.path.join(self.cfg.OUTPUT_DIR, "model_final.pth")
        pruner = self.cfg.PRUNER
        pruner.FINETUNE_SCHEDULE, pruner.FINETUNE_DISTILL = SCHEDULE, True
        # The test images must not choose among the models that they compare.
        pruner.KEEP_BEST = False
        tuning = self._tunings()
        for method in [method for method in METHODS if method in self.methods]:
            steps += self._prunings(method)
            if method == "blendprune":
                steps += self._trainings_on()
            steps += tuning.pop((method, RECIPES["alone"]), [])
        for rest in tuning.values():
            steps += rest
        if "slim" in self.methods:
            for level in self.tuned:
                steps.append(self._step(f"slim {level:g}", lambda x=level: self._train_slim(x)))
        self._forget_old_latency({step.name for step in steps})
        names = [step.name for step in steps]
        return [*steps, self._step("latency", self._measure_latency, names)]

    def _step(self, name, run, needs=("dense",)):
        return Step(self.results, name, run, tuple(needs))

    def _prunings(self, method):
        levels = " ".join(f"{level:g}" for level in self.levels)
        name = f"{method}, pruned to {levels}"
        steps = [self._step(name, lambda: self._prune(method))]
        # Those that are fine-tuned come first.
        for level in sorted(self.levels, key=lambda level: level not in self.tuned):
            evaluate = self._evaluation(method, level)
            steps.append(self._step(f"{method} {level:g}", evaluate, [name]))
        return steps

    def _tunings(self):
        found = {}
        for recipe in self.recipes:
            for method in [each for each in recipe.methods if each in self.methods]:
                found[method, recipe] = [
                    self._step(
                        f"{method} {level:g}{recipe.suffix}",
                        lambda method=method, level=level, recipe=recipe: self._tune(
                            method, level, recipe
                        ),
                        [f"{method} {level:g}"],
                    )
                    for level in self.tuned
                ]
        return found

    def _trainings_on(self):
        """The controls: one for each length of the fine-tuning."""
        lengths = {recipe.trained_on: recipe for recipe in (RECIPES["alone"], *self.recipes)}
        return [
            self._step(name, lambda recipe=recipe: self._train_on(recipe))
            for name, recipe in lengths.items()
        ]

    def _prune(self, method):
        cfg = self.cfg.clone()
        cfg.PRUNER.LEVELS = list(self.levels[:-1])
        self._set(cfg, METHODS[method], self.levels[-1])
        folder = self._pruned(method, self.levels[-1])
        if cfg.PRUNER.SENSITIVITY:
            cfg.PRUNER.SENSITIVITY = os.path.join(folder, cfg.PRUNER.SENSITIVITY)
        prune_from_config(cfg, folder)
        return {}

    @staticmethod
    def _set(cfg, method, target):
        cfg.PRUNER.MAX_FLOPS = target
        for key, value in method.items():
            cfg.PRUNER[key] = value

    def _pruned(self, method, level):
        folder = os.path.join(self.folder, method.replace(" ", "_"), f"to_{self.levels[-1]:g}")
        return folder if level == self.levels[-1] else os.path.join(folder, f"{level:g}")

    def _slim(self, level):
        return os.path.join(self.folder, f"slim_{level:g}")

    def _evaluation(self, method, level):
        folder = self._pruned(method, level)

        def evaluate():
            with open(os.path.join(folder, "report.json")) as file:
                report = json.load(file)
            costs = {
                kind: report[kind]["after"] / report[kind]["before"] for kind in ("flops", "params")
            }
            return _evaluate(_read(folder)) | costs | {"pruning_s": report["wall_s"]}

        return evaluate

    def _measure_latency(self):
        """Measure ms per forward on one test image, all available models in turn."""
        files = self._files(self.results.read())
        [image, *_] = next(iter(build_detection_test_loader(self.cfg, self.cfg.DATASETS.TEST[0])))
        return compare_latency({step: load(file) for step, file in files.items()}, [image], runs=31)

    def _forget_old_latency(self, steps):
        """The models take turns: with another model, all are measured again."""
        measured = self.results.read().get("latency")
        if measured is not None and not set(self._files(steps)) <= set(measured):
            self.results.drop("latency")

    def _files(self, steps):
        """Return the checkpoint path of each step's model."""
        files = {"dense": os.path.join(self.folder, "dense", "model_final.pth")}
        for method in METHODS:
            for level in self.levels:
                folder = self._pruned(method, level)
                for suffix, file in _FILES.items():
                    files[f"{method} {level:g}{suffix}"] = os.path.join(folder, file)
        for level in self.tuned:
            files[f"slim {level:g}"] = os.path.join(
                self._slim(level), _FILES[RECIPES["distilled"].suffix]
            )
        return {step: file for step, file in files.items() if step in steps}

    def _tune(self, method, level, recipe):
        folder = self._pruned(method, level)
        cfg = _read(folder) if recipe.distill else finetune_config(self._alone(recipe), folder)
        cfg.OUTPUT_DIR = os.path.join(folder, recipe.folder)
        return _train(cfg)

    def _train_on(self, recipe):
        """Train the dense model on, as long as the recipe says, without a teacher."""
        cfg = finetune_config(self._alone(recipe), self.cfg.OUTPUT_DIR)
        # The checkpoint has "struct", so that the recipe's hooks run, too.
        cfg.MODEL.WEIGHTS = self.cfg.MODEL.WEIGHTS
        cfg.OUTPUT_DIR = os.path.join(self.cfg.OUTPUT_DIR, recipe.folder)
        return _train(cfg)

    def _alone(self, recipe=RECIPES["alone"]):
        """Return the config of a training without a teacher."""
        cfg = self.cfg.clone()
        cfg.PRUNER.FINETUNE_DISTILL, cfg.PRUNER.FINETUNE_SCHEDULE = False, recipe.schedule
        return cfg

    def _train_slim(self, level):
        """Train a slim model from scratch for as long as training and fine-tuning together."""
        cfg, folder = self._alone(), self._slim(level)
        os.makedirs(folder, exist_ok=True)
        cfg.MODEL.WEIGHTS = os.path.join(folder, "init.pth")
        seed_all_rng(cfg.SEED)
        torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
        # The weights are random, so any channels can be pruned.
        self._set(cfg, METHODS["random"], level)
        prune_from_config(cfg, folder)
        cfg = _read(folder)
        cfg.SOLVER, cfg.PRUNER = self.cfg.SOLVER.clone(), self.cfg.PRUNER.clone()
        # Those of random weights mean nothing.
        cfg.PRUNER.FIXED_STATISTICS = False
        cfg.SOLVER.MAX_ITER = round((1 + SCHEDULE) * cfg.SOLVER.MAX_ITER)
        return _train(cfg)

    def _check_config(self):
        """Refuse to mix results of two configs."""
        path, written = os.path.join(self.folder, "config.yaml"), self.cfg.dump()
        if not os.path.exists(path):
            with staged(path) as [partial], open(partial, "w") as file:
                file.write(written)
            return
        mine = _flat(CfgNode.load_cfg(written))
        with open(path) as file:
            stored = _flat(CfgNode.load_cfg(file))
        for key in sorted((stored.keys() & mine.keys()) - set(_PLACES)):
            if stored[key] != mine[key]:
                raise ConfigError(
                    f"{self.folder} has results with {key} {stored[key]!r}, not {mine[key]!r}: "
                    "choose another --output."
                )


def _flat(node, name=""):
    """Full names of the keys of a config → values."""
    found = {}
    for key, value in node.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{name}{key}.")
        else:
            found[name + key] = value
    return found


def _train(cfg):
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    seed_all_rng(cfg.SEED)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = DigitTrainer(cfg)
        trainer.resume_or_load(resume=False)
        return average_precisions(trainer.train())


def _evaluate(cfg):
    model = build_trained(cfg)
    with contextlib.redirect_stdout(io.StringIO()):
        return average_precisions(DigitTrainer.test(cfg, model))


def _read(folder):
    cfg = get_cfg()
    cfg.merge_from_file(os.path.join(folder, "config.yaml"))
    return cfg
