"""Gradual pruning: the model gets narrower while it trains, and its optimizer with it."""

import logging

from detectron2.engine.train_loop import HookBase

from ..errors import ConfigError, PruningError
from ..pruning.graph.kept_entries import Survivors
from ..pruning.prune import check_layers, check_limits, check_ratio_limit, one_target
from ..pruning.scores import build_importance, check_normalizer, is_data_driven
from ..pruning.search.rounds import Cutter
from ..pruning.tracing.snapshot import Snapshot
from ..structure import unwrap
from .trainer_data import example_inputs_of, training_batches

# What a Cutter remembers of the model that it began with.
_MEMORY = ("dense", "widths", "dense_widths", "start")
_log = logging.getLogger(__name__)


class GradualPruning(HookBase):
    """Cuts a bit every so many iterations until a target is met (arXiv:1710.01878).

    After ``start`` iterations comes the first cut and after ``end`` the last; each removes the same
    fraction of what is left. Between them the model trains on. Cut parameters take the places of
    the old ones in the optimizer's groups, and keep what it holds for them: momentum, moments,
    steps. Checkpoints carry ``"struct"`` under the overlay, and this hook's state among them.

    Args:
        start (int), end (int): iterations done before the first and the last cut.
        period (int): iterations between two cuts.
        pruning_ratio, max_flops, max_params, max_activations (float): the target; exactly one.
        images (int): how many of the trainer's own images data-driven scores are computed from, and
            what is left after each cut is fitted on.
        importance, normalize, reconstruct, global_pruning, isomorphic, round_to, max_pruning_ratio,
            ignored_layers, pruning_ratio_dict, example_inputs: as for :func:`blendprune.prune`.

    Raises:
        ConfigError: an argument cannot hold.
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
        images=64,
        importance="surgeon",
        normalize=None,
        reconstruct=True,
        global_pruning=True,
        isomorphic=False,
        round_to=None,
        max_pruning_ratio=0.9,
        ignored_layers=(),
        pruning_ratio_dict=None,
        example_inputs=None,
    ):
        targets = {
            "pruning_ratio": pruning_ratio,
            "max_flops": max_flops,
            "max_params": max_params,
            "max_activations": max_activations,
        }
        self.kind, self.target = one_target(targets)
        if period < 1 or not 0 < start <= end:
            raise ConfigError(
                "gradual pruning wants 0 < start <= end and a period of at least 1, got "
                f"start {start}, end {end}, period {period}"
            )
        # Counted back from the end, so that the last cut comes when it was asked for.
        self.times = list(range(end, start - 1, -period))[::-1]
        self.limits = check_limits(max_pruning_ratio, round_to, global_pruning, isomorphic)
        check_ratio_limit(self.kind, self.target, self.limits)
        build_importance(importance)
        self.importance, self.normalize = importance, check_normalizer(normalize)
        self.images, self.reconstruct = images, reconstruct
        self.ignored_layers = ignored_layers
        self.ratios = pruning_ratio_dict
        self.example_inputs = example_inputs
        self._cutter, self._state = None, {}

    def before_train(self):
        if unwrap(self.trainer.model) is not self.trainer.model:
            raise PruningError(
                "gradual pruning cannot cut a model under DistributedDataParallel, whose buckets "
                "are made for its present widths: train in one process, or prune first and "
                "fine-tune with DistributedDataParallel"
            )
        if self.times[-1] > self.trainer.max_iter:
            raise ConfigError(
                f"gradual pruning ends after {self.times[-1]} iterations, but the training has "
                f"{self.trainer.max_iter}: set its end lower"
            )
        model = self.trainer.model
        check_layers(model, self.ignored_layers, self.ratios, self.limits)
        batches = None
        if is_data_driven(build_importance(self.importance)):
            batches = training_batches(self.trainer, self.images)
        inputs = example_inputs_of(model, self.example_inputs, self.trainer)
        self._cutter = Cutter(
            model,
            inputs,
            self.importance,
            batches,
            self.limits,
            self.ignored_layers,
            self.ratios,
            self.normalize,
            reconstruct=bool(self.reconstruct) and batches is not None,
        )
        # When a training resumes, the model that it began with is not there any more.
        for name, value in self._state.items():
            setattr(self._cutter, name, value)

    def after_step(self):
        done = self.trainer.iter + 1
        if done in self.times:
            self._cut((self.times.index(done) + 1) / len(self.times))
            if done == self.times[-1] and self.kind != "pruning_ratio":
                self._cutter.check(self.kind, self.target)

    def report(self):
        """What has been cut so far, as a PruningReport."""
        return self._cutter.report()

    def state_dict(self):
        if self._cutter is None:
            return self._state
        return {name: getattr(self._cutter, name) for name in _MEMORY}

    def load_state_dict(self, state_dict):
        self._state = dict(state_dict)

    def _cut(self, part):
        model, optimizer = self.trainer.model, self.trainer.optimizer
        before = parameters_of(model)
        snapshot = Snapshot(model)
        # Of this cut alone: the optimizer has followed those before it.
        self._cutter.survivors = survivors = Survivors()
        try:
            self._cutter.round(self.kind, self.target, part)
        except BaseException:
            snapshot.restore()
            raise
        # The next one is towards the features that the model has learnt by then.
        self._cutter.reconstruction = None
        optimizer.zero_grad(set_to_none=True)
        replace_parameters(optimizer, before, model, survivors)
        totals = self._cutter.totals()
        kept = {unit: totals[unit] / dense for unit, dense in self._cutter.dense.items()}
        self.trainer.storage.put_scalars(**{f"kept_{unit}": x for unit, x in kept.items()})
        _log.info(
            "iteration %d: cut to %s",
            self.trainer.iter + 1,
            ", ".join(f"{x:.3f} of the {unit}" for unit, x in kept.items()),
        )


def replace_parameters(optimizer, before, model, survivors):
    """Put cut parameters, and the slices of their state, in the places of the old ones.

    Args:
        optimizer (torch.optim.Optimizer): changed in place; its groups stay the same objects, so
            schedulers go on working.
        before (dict): (module, name) → parameter, of the model before it was cut.
        model (nn.Module): after it was cut.
        survivors (Survivors): of the cut.
    """
    renewed = {}
    for key, new in parameters_of(model).items():
        old = before[key]
        if new is not old:
            renewed[old] = new, survivors.entries(*key)
    for group in optimizer.param_groups:
        for i, old in enumerate(group["params"]):
            if old in renewed:
                new, entries = renewed[old]
                group["params"][i] = new
                state = optimizer.state.pop(old, {})
                # A parameter outside any layer (layer scale) starts anew.
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
