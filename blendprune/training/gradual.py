"""Gradual pruning: rounds of pruning during a training; the optimizer follows."""

import dataclasses
import logging

from detectron2.engine.train_loop import HookBase

from .. import distributed
from ..checks import check_count
from ..config.target import Target
from ..errors import ConfigError
from ..pruning.scores import build_importance, is_data_driven
from ..pruning.search.options import PruningOptions
from ..pruning.search.rounding import AUTO, rounding_words
from ..pruning.search.rounds import PruningRun
from ..pruning.tracing.snapshot import Snapshot
from ..structure.widths import restructure
from ..wrappers import is_distributed, unwrap, wrap_anew
from .trainer_data import example_inputs_of, training_batches

# Below upstream's logger, which every training script sets up.
_log = logging.getLogger("detectron2.blendprune.training")


class GradualPruning(HookBase):
    """Prunes in rounds during a training until a target is met (arXiv:1710.01878).

    The first round comes after ``start`` iterations and the last after ``end``; each keeps the same
    fraction of what is left. The model trains on between them. Pruned parameters replace the old
    ones in the optimizer's groups and keep their state: momentum, moments, steps. Checkpoints carry
    ``"struct"`` under the overlay, and the state of this hook: a training resumes as any other.
    Several processes prune together: each has a share of the images, and DistributedDataParallel is
    made again after each round.

    Args:
        start (int), end (int): iterations done before the first and the last round.
        period (int): iterations between two rounds.
        pruning_ratio, max_flops, max_params, max_activations, max_memory (float): the target;
            exactly one.
        images (int): number of the trainer's own images for scores from data and for the
            reconstruction after each round.
        importance (str | Callable): as for :func:`blendprune.prune`, like all further arguments.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(
        self,
        start,
        end,
        period,
        *,
        pruning_ratio=None,
        max_flops=None,
        max_params=None,
        max_activations=None,
        max_memory=None,
        images=64,
        importance="obs",
        normalize=None,
        reconstruct=True,
        global_pruning=True,
        isomorphic=False,
        round_to=AUTO,
        max_pruning_ratio=0.9,
        ignored_layers=(),
        pruning_ratio_dict=None,
        example_inputs=None,
    ):
        self.target = Target.only(
            {
                "pruning_ratio": pruning_ratio,
                "max_flops": max_flops,
                "max_params": max_params,
                "max_activations": max_activations,
                "max_memory": max_memory,
            }
        )
        self._with_memory = self.target.unit == "memory"
        whole = all(isinstance(x, int) for x in (start, end, period))
        if not whole or period < 1 or not 0 < start <= end:
            raise ConfigError(
                "gradual pruning wants 0 < start <= end and a period of at least 1, got "
                f"start {start!r}, end {end!r}, period {period!r}: count in iterations"
            )
        # Counted back from the end: the last round comes at the iteration that was asked for.
        self.times = list(range(end, start - 1, -period))[::-1]
        self.options = PruningOptions(
            importance=importance,
            normalize=normalize,
            reconstruct=reconstruct,
            global_pruning=global_pruning,
            isomorphic=isomorphic,
            round_to=round_to,
            max_pruning_ratio=max_pruning_ratio,
            ignored_layers=ignored_layers,
            pruning_ratio_dict=pruning_ratio_dict,
        )
        self.options.check_target(self.target)
        self.images, self.example_inputs = check_count("images", images), example_inputs
        self._run, self._state, self._rounds = None, {}, 0

    def before_train(self):
        with distributed.together():
            self._begin()

    def _begin(self):
        if self.times[-1] > self.trainer.max_iter:
            raise ConfigError(
                f"gradual pruning ends after {self.times[-1]} iterations, but the training has "
                f"{self.trainer.max_iter}: set its end lower"
            )
        if distributed.processes() > 1 and not is_distributed(self.trainer.model):
            raise ConfigError(
                "gradual pruning in several processes wants the DistributedDataParallel, to make "
                "it again after each round: pass it to blendprune.training.attach before the loop, "
                "or train in one process"
            )
        model = unwrap(self.trainer.model)
        # A training that resumes took the widths of its checkpoint.
        wrap_anew(self.trainer.model)
        # Norms of each process have seen other images.
        distributed.copy_from_first(model.buffers())
        self.options = dataclasses.replace(self.options, device=next(model.parameters()).device)
        self.options.check_layers(model)
        batches = None
        if is_data_driven(build_importance(self.options.importance)):
            batches = training_batches(self.trainer, self.images)
        inputs = example_inputs_of(model, self.example_inputs, self.trainer)
        self._run = PruningRun(model, inputs, self.options, batches, memory=self._with_memory)
        # A training that resumes no longer has the model that it began with.
        self._run.load_state_dict(self._state or self._beginning(inputs))
        due = self._due(self.trainer.start_iter)
        self._rounds = self._state.get("rounds", due)
        if self._rounds < due:
            # The checkpoint was saved in the iteration of a round, but before it.
            self._prune(due)

    def after_step(self):
        due = self._due(self.trainer.iter + 1)
        if due > self._rounds:
            with distributed.together():
                self._prune(due)

    def _due(self, iterations):
        """Rounds that are due after a number of iterations."""
        return sum(time <= iterations for time in self.times)

    def report(self):
        """What has been pruned so far.

        Returns:
            PruningReport: against the model that the training began with.
        """
        return self._run.report()

    def state_dict(self):
        if self._run is None:
            return self._state
        return {**self._run.state_dict(), "rounds": self._rounds}

    def load_state_dict(self, state_dict):
        self._state = dict(state_dict)

    def _beginning(self, inputs):
        """State of a run whose checkpoint has none: AdelaiDet's trainer saves no hooks."""
        began_as = getattr(unwrap(self.trainer.model), "blendprune_began_as", None)
        if began_as is None:
            return {}
        if self.trainer.start_iter == 0:
            raise ConfigError(
                "the weights that this training starts from were pruned gradually already: pass "
                "--resume, with the OUTPUT_DIR of that training, to go on with it, or set "
                "MODEL.FINETUNE True to prune them further"
            )
        from ..checkpoint.build import build_dense

        model = build_dense(self.trainer.cfg)
        restructure(model, began_as)
        # The first round finds what there is to know; how it scores does not matter.
        options = dataclasses.replace(self.options, importance="magnitude", reconstruct=False)
        run = PruningRun(model, inputs, options, memory=self._with_memory)
        run.prune_once(self.target, 1 / len(self.times))
        return run.state_dict()

    def _prune(self, due):
        model, optimizer, run = unwrap(self.trainer.model), self.trainer.optimizer, self._run
        distributed.copy_from_first(model.buffers())
        before = parameters_of(model)
        snapshot = Snapshot(model)
        # The optimizer has followed the earlier rounds, and the model has learnt other features.
        run.begin_interval()
        try:
            run.prune_once(self.target, due / len(self.times))
            run.try_own_runs(snapshot)
        except BaseException:
            snapshot.restore()
            raise
        optimizer.zero_grad(set_to_none=True)
        replace_parameters(optimizer, before, model, run.kept)
        wrap_anew(self.trainer.model)
        self._rounds, totals = due, run.totals()
        kept = {unit: totals[unit] / dense for unit, dense in run.dense.items()}
        scalars = {f"kept_{unit}": x for unit, x in kept.items()}
        self.trainer.storage.put_scalars(smoothing_hint=False, **scalars)
        _log.info(
            "iteration %d: pruned to %s; widths %s",
            self.trainer.iter + 1,
            ", ".join(f"{x:.3f} of the {unit}" for unit, x in kept.items()),
            rounding_words(run.rounding.to_dict()),
        )
        if due == len(self.times):
            run.check(self.target)


def replace_parameters(optimizer, before, model, kept):
    """Replace pruned parameters in an optimizer, with the slices of their state.

    Args:
        optimizer (torch.optim.Optimizer): changed in place; its groups stay the same objects, so
            schedulers keep working.
        before (dict): (module, name) → parameter, of the model before pruning.
        model (nn.Module): after pruning.
        kept (KeptEntries): of the pruning.
    """
    renewed = {}
    for key, new in parameters_of(model).items():
        old = before[key]
        if new is not old:
            renewed[old] = new, kept.entries(*key)
    for group in optimizer.param_groups:
        for i, old in enumerate(group["params"]):
            if old in renewed:
                new, entries = renewed[old]
                group["params"][i] = new
                state = optimizer.state.pop(old, {})
                # A parameter outside any layer (layer scale) starts without state.
                if state and entries is not None:
                    optimizer.state[new] = {k: _slice(v, old, entries) for k, v in state.items()}


def _slice(value, old, entries):
    follows = getattr(value, "shape", None) == old.shape
    return value.flatten()[entries.to(value.device)] if follows else value


def parameters_of(model):
    """All parameters of a model, by the module that holds them and their name in it."""
    return {
        (module, name): p
        for module in model.modules()
        for name, p in module._parameters.items()
        if p is not None
    }
