"""Train, prune, fine-tune and evaluate one dense model; each step runs once."""

import contextlib
import io
import json
import os
import time

import torch
from detectron2.config import get_cfg
from detectron2.data import build_detection_test_loader
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng

from blendprune.checkpoint.build import build_trained
from blendprune.checkpoint.loading import load
from blendprune.demo.trainer import DigitTrainer, average_precisions
from blendprune.files import staged
from blendprune.pipeline import prune_from_config
from blendprune.pipeline.finetune import finetune_config
from blendprune.pruning.cost.latency import compare_latency

from .models import dense_config

#: FLOPs to keep, as fractions.
LEVELS = (0.6667, 0.5, 0.3333, 0.25)
#: Levels at which models are fine-tuned or trained from scratch.
TUNED = (0.5, 0.25)
#: Iterations of the fine-tuning, as a fraction of the dense training's.
SCHEDULE = 0.2
#: Pruning methods, as keys of the PRUNER node. Torch-Pruning's default is its ``MagnitudePruner``:
#: the L2 norm of the coupled weights, the same ratio for every group, one step.
METHODS = {
    "blendprune": {},
    "by sensitivity": {"SENSITIVITY": "sensitivity.json"},
    "no reconstruction": {"RECONSTRUCT": False, "ROUNDS": 5},
    "taylor": {"IMPORTANCE": "taylor", "RECONSTRUCT": False, "ROUNDS": 5},
    "torch-pruning": {"IMPORTANCE": "magnitude", "GLOBAL_PRUNING": False, "ROUNDS": 1},
    "random": {"IMPORTANCE": "random", "GLOBAL_PRUNING": False, "ROUNDS": 1},
}
#: Methods that are fine-tuned with distillation from the dense model.
TUNED_METHODS = ("blendprune", "torch-pruning", "random")
#: Suffixes of fine-tuned steps: with distillation from the dense model, and without a teacher.
FINETUNED, UNTAUGHT = ", fine-tuned", ", fine-tuned without a teacher"
# Checkpoints by suffix, relative to the folder of the pruned model.
_FILES = {
    "": "model_pruned.pth",
    FINETUNED: "finetune/model_final.pth",
    UNTAUGHT: "finetune_alone/model_final.pth",
}


class Runs:
    """All steps of one model and one seed.

    Args:
        folder (str): for checkpoints and ``results.json``. Steps with results are not run again.
        model (str): one of :data:`benchmarks.accuracy.models.MODELS`.
        seed (int): see :func:`benchmarks.accuracy.models.dense_config`.
        opts (Sequence): ``KEY VALUE`` pairs that override the config.
        methods (Sequence[str]): names of :data:`METHODS`; ``"slim"`` for models from scratch.
    """

    def __init__(self, folder, model, seed, opts=(), methods=(*METHODS, "slim")):
        self.folder = os.path.abspath(folder)
        os.makedirs(self.folder, exist_ok=True)
        self.path = os.path.join(self.folder, "results.json")
        self.results = self._kept()
        self.cfg = dense_config(model, seed, opts)
        self.cfg.OUTPUT_DIR = os.path.join(self.folder, "dense")
        self.methods = methods

    def run(self):
        """Run the steps without results, the most important ones first."""
        self._step("dense", lambda: _train(self.cfg))
        self.cfg.MODEL.WEIGHTS = os.path.join(self.cfg.OUTPUT_DIR, "model_final.pth")
        pruner = self.cfg.PRUNER
        pruner.FINETUNE_SCHEDULE, pruner.FINETUNE_DISTILL = SCHEDULE, True
        # The test scenes must not choose among the models that they compare.
        pruner.KEEP_BEST = False
        self._step("dense, trained on", self._train_on)
        for method in METHODS:
            if method not in self.methods:
                continue
            self._prune(method)
            for level in TUNED if method in TUNED_METHODS else ():
                self._tune(method, level, FINETUNED)
        if "blendprune" in self.methods:
            for level in TUNED:
                self._tune("blendprune", level, UNTAUGHT)
        if "slim" in self.methods:
            for level in TUNED:
                self._step(f"slim {level:g}", lambda level=level: self._train_slim(level))
        self._measure_latency()

    def _prune(self, method):
        names = [f"{method} {level:g}" for level in LEVELS]
        if all(name in self.results for name in names):
            return
        cfg = self.cfg.clone()
        cfg.PRUNER.LEVELS = list(LEVELS[:-1])
        self._set(cfg, METHODS[method], LEVELS[-1])
        if cfg.PRUNER.SENSITIVITY:
            cfg.PRUNER.SENSITIVITY = os.path.join(self._pruned(method), cfg.PRUNER.SENSITIVITY)
        prune_from_config(cfg, self._pruned(method))
        for name, level in zip(names, LEVELS):
            self._step(name, lambda level=level: self._evaluate_pruned(method, level))

    @staticmethod
    def _set(cfg, method, target):
        cfg.PRUNER.MAX_FLOPS = target
        for key, value in method.items():
            cfg.PRUNER[key] = value

    def _pruned(self, method, level=LEVELS[-1]):
        folder = os.path.join(self.folder, method.replace(" ", "_"))
        return folder if level == LEVELS[-1] else os.path.join(folder, f"{level:g}")

    def _slim(self, level):
        return os.path.join(self.folder, f"slim_{level:g}")

    def _evaluate_pruned(self, method, level):
        folder = self._pruned(method, level)
        with open(os.path.join(folder, "report.json")) as file:
            report = json.load(file)
        costs = {
            kind: report[kind]["after"] / report[kind]["before"] for kind in ("flops", "params")
        }
        return _evaluate(_read(folder)) | costs | {"pruning_s": report["wall_s"]}

    def _measure_latency(self):
        """Measure ms per forward on one test scene, all available models in turn."""
        files = {step: file for step, file in self._files().items() if step in self.results}
        if set(files) <= set(self.results.get("latency", ())):
            return
        self.results.pop("latency", None)
        [scene, *_] = next(iter(build_detection_test_loader(self.cfg, self.cfg.DATASETS.TEST[0])))
        models = {step: load(file) for step, file in files.items()}
        self._step("latency", lambda: compare_latency(models, [scene], runs=31))

    def _files(self):
        """Return the checkpoint path of each step's model."""
        folders = {
            f"{method} {level:g}": self._pruned(method, level)
            for method in METHODS
            for level in LEVELS
        }
        files = {"dense": self.cfg.MODEL.WEIGHTS}
        files |= {
            step + suffix: os.path.join(folder, file)
            for step, folder in folders.items()
            for suffix, file in _FILES.items()
        }
        return files | {
            f"slim {x:g}": os.path.join(self._slim(x), _FILES[FINETUNED]) for x in TUNED
        }

    def _tune(self, method, level, suffix):
        folder = self._pruned(method, level)
        cfg = finetune_config(self._alone(), folder) if suffix == UNTAUGHT else _read(folder)
        cfg.OUTPUT_DIR = os.path.join(folder, os.path.dirname(_FILES[suffix]))
        self._step(f"{method} {level:g}{suffix}", lambda: _train(cfg))

    def _train_on(self):
        """Train the dense model on with the fine-tuning recipe, without a teacher."""
        cfg = finetune_config(self._alone(), self.cfg.OUTPUT_DIR)
        cfg.MODEL.FINETUNE, cfg.MODEL.WEIGHTS = False, self.cfg.MODEL.WEIGHTS
        return _train(cfg)

    def _alone(self):
        """Return the config of a training without a teacher."""
        cfg = self.cfg.clone()
        cfg.PRUNER.FINETUNE_DISTILL = False
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
        cfg.SOLVER.MAX_ITER = round((1 + SCHEDULE) * cfg.SOLVER.MAX_ITER)
        return _train(cfg)

    def _kept(self):
        if not os.path.exists(self.path):
            return {}
        with open(self.path) as file:
            return json.load(file)

    def _step(self, name, run):
        if name in self.results:
            return
        start = time.perf_counter()
        result = run() | {"wall_s": round(time.perf_counter() - start)}
        self.results = self._kept() | {name: result}
        with staged(self.path) as [partial], open(partial, "w") as file:
            json.dump(self.results, file, indent=2)
        print(f"{os.path.relpath(self.folder)}: {name}: {_words(result)}", flush=True)


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


def _words(result):
    return ", ".join(f"{key} {value:g}" for key, value in result.items())
