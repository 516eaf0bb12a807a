"""detectron2's default trainer, adapted to digit scenes."""

import logging
import math
import os

import torch
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.evaluation import COCOEvaluator
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils.events import EventWriter, JSONWriter, get_event_storage

from ..data.mapper import DatasetMapperWithBasis
from ..training import KeepBest

_log = logging.getLogger(__name__)

_TASKS = {"segm": "mask", "bbox": "box"}


class DigitTrainer(DefaultTrainer):
    """Trains with AdamW, which needs fewer steps from scratch than SGD."""

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=DatasetMapperWithBasis(cfg, True))

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        # The wheel of detectron2 lacks its compiled evaluation, so this uses pycocotools.
        tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        return COCOEvaluator(dataset_name, tasks=tasks, use_fast_impl=False)

    @classmethod
    def build_optimizer(cls, cfg, model):
        params = get_default_optimizer_params(
            model, base_lr=cfg.SOLVER.BASE_LR, weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM
        )
        return torch.optim.AdamW(
            params, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY, fused=True
        )

    def train(self):
        """Train and return the final evaluation, which upstream returns only in tests.

        Returns:
            dict: task ("segm", "bbox") to the metrics of COCOEvaluator.
        """
        super().train()
        return self._last_eval_results

    def build_writers(self):
        metrics = JSONWriter(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"))
        return [metrics, ProgressWriter(self.max_iter)]


def average_precisions(results):
    """Read the AP of each task.

    Args:
        results (dict): the result of `DigitTrainer.test` or `DigitTrainer.train`.

    Returns:
        dict[str, float]: "bbox" and, with masks, "segm", in percent.
    """
    # COCOEvaluator returns NaN if nothing was detected, and JSON has no NaN.
    aps = {task: results[task]["AP"] for task in ("segm", "bbox") if task in results}
    return {task: 0.0 if math.isnan(ap) else round(ap, 2) for task, ap in aps.items()}


def ap_text(ap):
    """One line with the result of `average_precisions` (str)."""
    return ", ".join(f"{_TASKS[task]} AP {value:.1f}" for task, value in ap.items())


class EvaluationLog(HookBase):
    """Logs the AP of each evaluation before the last, with that of `KeepBest` at the start.

    Register it behind the hooks that evaluate.
    """

    def before_train(self):
        self._seen = None
        for hook in self.trainer._hooks:
            if isinstance(hook, KeepBest) and 0 in hook.results:
                _log.info("at the start: %s", ap_text(average_precisions(hook.results[0])))

    def after_step(self):
        results = getattr(self.trainer, "_last_eval_results", None)
        if results and results is not self._seen:
            done, last = self.trainer.iter + 1, self.trainer.max_iter
            aps = ap_text(average_precisions(results))
            _log.info("iteration %4d / %d   %s", done, last, aps)
        self._seen = results


class ProgressWriter(EventWriter):
    """Logs one short line of progress; detectron2's line has 300 characters."""

    def __init__(self, max_iter):
        self.max_iter = max_iter

    def write(self):
        storage = get_event_storage()
        done = storage.iter + 1
        histories = storage.histories()
        if done > self.max_iter or "total_loss" not in histories or "time" not in histories:
            return
        loss = histories["total_loss"].median(20)
        left = histories["time"].median(40) * (self.max_iter - done)
        _log.info(
            "iteration %4d / %d   loss %.3f   %d:%02d left",
            *(done, self.max_iter, loss, left // 60, left % 60),
        )
