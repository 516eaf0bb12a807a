"""Fine-tuning that keeps the best: of the start, and of what the training evaluates."""

import logging
import math
import os
import sys
from dataclasses import asdict, dataclass
from numbers import Number

from detectron2.engine.hooks import BestCheckpointer, EvalHook
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..checkpoint import read_checkpoint
from ..errors import ConfigError, first_line
from ..files import save_atomically, staged
from ..pipeline.metrics import headline_of, tasks_of
from ..structure import structure_of
from ..wrappers import plain_state, unwrap
from .training_loss import METRIC, TASK, TrainingLoss

# Below upstream's logger, which every training script sets up.
_log = logging.getLogger("detectron2.blendprune.training")

_FINAL, _LAST = "model_final.pth", "model_last.pth"
_LOSS_NAME = f"{TASK} {METRIC}"


class KeepBest(HookBase):
    """Leaves the best model as ``model_final.pth``: the start, or one that the training evaluates.

    Fine-tuning can harm. Therefore the hook evaluates the model before the first iteration, with
    the script's own evaluator (``trainer.test``). It takes the evaluations that happen anyway
    (TEST.EVAL_PERIOD, and after the last iteration) and compares :func:`headline`. The best model
    so far is ``model_best.pth``: weights and ``"struct"``. If the last model is not the best,
    ``model_final.pth`` becomes the best one at the end, and the last state stays as
    ``model_last.pth``; ``trainer._last_eval_results``, which upstream's ``train`` returns, is then
    that of ``model_final.pth``, too. The model in memory stays the last one. Of a trainer without a
    checkpointer, ``model_final.pth`` is left alone, and the log names ``model_best.pth``.

    A training that resumes reads from ``model_best.pth`` what was best until then. It evaluates its
    checkpoint if that was due when it was saved: the run before may have stopped in between. If
    detectron2's ``BestCheckpointer`` runs, too, whose file has the same name, the file is
    ``model_kept.pth``.

    Where nothing evaluates, models are compared by their loss on images of the training
    (:class:`.training_loss.TrainingLoss`): before the first iteration, every
    SOLVER.CHECKPOINT_PERIOD (a quarter of the training, if there is no config), and at the end.

    Args:
        evaluate (Callable): returns a (nested) dict of metrics; default: ``trainer.test``.
        output_dir (str): folder of the checkpoints; default: OUTPUT_DIR.

    Attributes:
        results (dict[int, dict]): what was evaluated in this run, by the iterations done.
        path (str): the file with the best model so far.
    """

    def __init__(self, evaluate=None, output_dir=None):
        self._evaluate, self._folder = evaluate, output_dir
        self._best, self._seen, self._later, self._loss = None, None, None, None
        self.results, self.path = {}, ""

    def before_train(self):
        if self._later is None:
            # Hooks of a config come first, but what is evaluated and saved is known last.
            self._later = _AfterTheOthers(self)
            self.trainer.register_hooks([self._later])
        self._folder = self._folder or self.trainer.cfg.OUTPUT_DIR
        taken = any(isinstance(hook, BestCheckpointer) for hook in self.trainer._hooks)
        self.path = os.path.join(self._folder, f"model_{'kept' if taken else 'best'}.pth")
        self._seen = self._last_results()
        if comm.is_main_process() and self.trainer.start_iter > 0:
            self._best = _read(self.path)
        # Each process evaluates its share: what the first one knows decides for all.
        best = comm.all_gather(self._best)[0]
        if best is None:
            self._start()
            return
        if best.name == _LOSS_NAME:
            self._loss = TrainingLoss(self.trainer)
        if self._was_interrupted():
            self._compare(self._run_evaluation(), self.trainer.start_iter)

    def _was_interrupted(self):
        """Whether the run before may have stopped between a checkpoint and its evaluation."""
        start, end = self.trainer.start_iter, self.trainer.max_iter
        periods = [hook._period for hook in self.trainer._hooks if isinstance(hook, EvalHook)]
        periods += [self._loss_period()] if self._loss else []
        return 0 < start < end and any(period and start % period == 0 for period in periods)

    def _start(self):
        _log.info("evaluating the model before the first iteration")
        results = self._run_evaluation()
        if comm.all_gather(headline(results) is None)[0]:
            results = self._begin_with_losses()
        self._compare(results, self.trainer.start_iter)

    def _begin_with_losses(self):
        why = "the script evaluates no test set (DATASETS.TEST, build_evaluator)"
        try:
            self._loss = TrainingLoss(self.trainer)
        except ConfigError as error:
            _log.warning(
                "PRUNER.KEEP_BEST compares nothing: %s, and its loader gives no images (%s), so "
                "that model_final.pth is the last model",
                *(why, first_line(error)),
            )
            return {}
        _log.warning("PRUNER.KEEP_BEST compares models by their loss on training images: %s", why)
        return self._loss()

    def _loss_period(self):
        cfg = getattr(self.trainer, "cfg", None)
        return cfg.SOLVER.CHECKPOINT_PERIOD if cfg else math.ceil(self.trainer.max_iter / 4)

    def look(self):
        """Compare the model if it was evaluated in this iteration."""
        results, done = self._last_results(), self.trainer.iter + 1
        if self._loss:
            if done % self._loss_period() == 0 and done < self.trainer.max_iter:
                self._compare(self._loss(), done)
        elif results is not self._seen:
            self._seen = results
            self._compare(results, done)

    def finish(self):
        """Compare the last model, and leave the best as the final one."""
        trainer = self.trainer
        # Upstream runs the hooks of a training that failed, too.
        if trainer.iter + 1 < trainer.max_iter or sys.exc_info()[0] is not None:
            return
        results = self._last_results()
        if self._loss or results is self._seen:
            results = self._run_evaluation()
        if comm.is_main_process() and self._compare(results, trainer.max_iter):
            self._leave_best(headline(results))

    def _run_evaluation(self):
        if self._loss:
            return self._loss()
        if self._evaluate is not None:
            results = self._evaluate()
        elif getattr(self.trainer, "test", None) and self.trainer.cfg.DATASETS.TEST:
            results = self.trainer.test(self.trainer.cfg, self.trainer.model)
        else:
            return {}
        comm.synchronize()
        return results

    def _last_results(self):
        return getattr(self.trainer, "_last_eval_results", None)

    def _compare(self, results, iteration):
        """Save the model if it is the best so far; return whether it has a metric."""
        found = headline(results) if comm.is_main_process() else None
        if found is None:
            return False
        name, value = found
        self.results[iteration] = results
        if self._best is None or value > self._best.value:
            self._best = _Record(iteration, name, value, _plain(results))
            model = unwrap(self.trainer.model)
            checkpoint = {"model": plain_state(model), "struct": structure_of(model)}
            save_atomically({**checkpoint, "best": asdict(self._best)}, self.path)
            _log.info("best so far: %s; %s", self._best, self.path)
        return True

    def _leave_best(self, last):
        best, final = self._best, os.path.join(self._folder, _FINAL)
        if best.value <= last[1]:
            _log.info("the last model is the best: %s", best)
            return
        message = "the last model is %.2f worse than %s: "
        facts = best.value - last[1], best
        checkpointer = getattr(self.trainer, "checkpointer", None)
        if checkpointer is None or not PathManager.isfile(final):
            _log.warning(message + "use %s", *facts, self.path)
            return
        if os.path.basename(checkpointer.get_checkpoint_file()) == _FINAL:
            # The state to resume from.
            _copy(final, os.path.join(self._folder, _LAST))
            checkpointer.tag_last_checkpoint(_LAST)
        _copy(self.path, final)
        if self._last_results() is not None:
            self.trainer._last_eval_results = best.results
        _log.warning(message + "%s is the best one, %s the last", *facts, _FINAL, _LAST)


class _AfterTheOthers(HookBase):
    """Runs the second half of :class:`KeepBest`, behind the hooks that evaluate and save."""

    def __init__(self, keeper):
        self._keeper = keeper

    def after_step(self):
        self._keeper.look()

    def after_train(self):
        self._keeper.finish()


@dataclass
class _Record:
    """An evaluated model: iterations done, the metric, and all results."""

    iteration: int
    name: str
    value: float
    results: dict

    def __str__(self):
        when = f"after {self.iteration} iterations" if self.iteration else "at the start"
        return f"the model {when} ({self.name}: {self.value:.2f})"


def headline(results):
    """The number to compare models by: the mean over tasks and data sets.

    Args:
        results (dict): of ``DefaultTrainer.test``: task → metrics, or data set → task → metrics.

    Returns:
        tuple[str, float] | None: what was averaged and its mean, in the evaluator's units. Each
        task counts with its "AP", else "PQ", else "mIoU". If none has one of these, each counts
        with its first number that is no loss. What is not finite counts as 0: COCO's AP if nothing
        was detected. None if there is no number.
    """
    # Data sets with the same task share its name.
    tasks = [(path.rpartition("/")[2], numbers) for path, numbers in tasks_of(results)]
    found = [(name, key, task[key]) for name, task in tasks if (key := headline_of(task))]
    if not found:
        found = [(name, key, task[key]) for name, task in tasks if (key := _first_of(task))]
    if not found:
        return None
    names = list(dict.fromkeys(f"{name} {key}".strip() for name, key, _ in found))
    values = [float(value) if math.isfinite(value) or key == METRIC else 0.0
              for _, key, value in found]  # fmt: skip
    return " and ".join(names), sum(values) / len(values)


def _first_of(numbers):
    return next((key for key in numbers if key == METRIC or "loss" not in key.lower()), None)


def _plain(results):
    """Results as a file can hold them: str → float."""
    return {
        str(key): _plain(value) if isinstance(value, dict) else float(value)
        for key, value in results.items()
        if isinstance(value, (dict, Number))
    }


def _read(path):
    """What is known of the best model of a training that goes on; None if nothing is."""
    record = read_checkpoint(path).get("best") if PathManager.isfile(path) else None
    return _Record(**record) if isinstance(record, dict) else None


def _copy(path, to):
    with staged(to) as [partial]:
        PathManager.copy(path, partial, overwrite=True)
