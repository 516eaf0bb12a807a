"""A model on its way to a target: pruned round by round, refit, checked, reported."""

import contextlib
import math
from functools import partial

from ... import distributed
from ...config.target import Target
from ...errors import ConfigError, TargetUnreachable
from ...structure import remember_predictions
from ..cost.clock import FormClock
from ..cost.cost_model import CostModel
from ..cost.count import count_costs, flops_by_module, total_costs
from ..graph.config_layers import config_layers
from ..graph.groups import group_notes
from ..graph.inputs import few_images, small_inputs
from ..graph.kept_entries import KeptEntries
from ..graph.outputs import head_outputs
from ..graph.proof import proven_graph
from ..reconstruction import Reconstruction
from ..scores import build_importance, normalize_scores, score_groups
from ..tracing.attributes import sync_attributes
from ..tracing.hooks import evaluating
from ..tracing.layer_kinds import is_prunable_layer, output_width
from ..tracing.view import prunable
from .digests import digest
from .history import History
from .own_runs import check_own_runs
from .refusals import (
    check_any,
    check_goal,
    check_met,
    check_ratios,
    naming_data_faults,
    naming_misfits,
)
from .result import PruningReport
from .search import TOLERANCE, Search, end_widths, ratio_notes
from .stages import StageSeconds

_LATENCY_ROUNDS = 12
# Fraction of the cost that a round keeps at least. Scores say too little about more channels at
# once. Many small rounds add errors that the scores of the next round do not see.
_KEPT_PER_ROUND = 0.65
# A latency that is lower than wanted by more than this fraction is worth a note.
_TOO_FAST = 0.05
ONE_CLOCK = (
    "processes that prune together disturb each other's clocks: reach max_latency in one process, "
    "or ask for max_flops"
)
# What :meth:`PruningRun.state_dict` holds.
_MEMORY = ("dense", "dense_flops", "widths", "dense_widths", "start")


class PruningRun:
    """A model on its way to a target.

    Args:
        model (nn.Module): outside the prunable view; pruned in place.
        inputs (list[dict]): to trace and count with.
        options (PruningOptions): how to prune.
        batches (list[list[dict]] | None): data for scores and reconstruction.
        sensitivity (Sensitivity | None): decides how much of each group goes.
        memory (bool): also count memory; targets of memory need it.
        history (History | None): of its rounds, with those of an interrupted run, if there are any.

    Attributes:
        dense (dict[str, int]): costs of the model at the start, by unit.
        dense_flops (dict[str, int]): its FLOPs, by module.
        notes (list[str]): what does not take part, and why.
        rounding (Rounding): of the widths; finer where a note says so.
        seconds (StageSeconds): where the time goes.
        kept (KeptEntries | None): of every parameter, since the start or :meth:`begin_interval`;
            None where nothing must follow the parameters.
    """

    def __init__(
        self, model, inputs, options, batches=None, sensitivity=None, memory=False, history=None
    ):
        self.model, self.inputs, self.options = model, inputs, options
        self.history = history or History()
        self.batches, self.sensitivity = batches, sensitivity
        distributed.check_same("weights", lambda: digest(model))
        # Every process looks at the same images to see what runs.
        self._shown = distributed.from_first(lambda: few_images(batches))
        self.notes, self.rounding, self.seconds = [], options.rounding, StageSeconds()
        self.kept = KeptEntries() if self._wants_reconstruction() else None
        # Made right before the first pruning: it reads the features of the dense model.
        self._reconstruction = None
        self._parameters = [name for name, _ in model.named_parameters()]
        self._with_memory = memory
        with self.seconds.of("counting"):
            self._counts = count_costs(model, inputs, memory)
        self.dense, self.dense_flops = self.totals(), self._counts.flops
        self.widths = layer_widths(model)
        # Groups that the proof has frozen: names → reasons; None before it.
        self._frozen = None
        # Batches that together run all layers.
        self._telling = ()
        # Cost, or share of the channels, where the way to the present target began.
        self.dense_widths, self.start = None, None
        # For a latency: what measures it.
        self._clock = None

    def reach(self, target, rounds=None, progress=None, goal=None):
        """Prune in rounds, from where the last target left the model.

        Args:
            target (Target): the next one, of the model that the run began with.
            rounds (int | None): number of rounds; None for as few as keep 0.65 of the cost each.
            progress (Callable): called as ``progress(done, rounds)`` after each round.
            goal (Target): the furthest target of the run, if not this one.

        Raises:
            ConfigError: the model meets an absolute target anyway.
            TargetUnreachable: allowed widths do not meet the target.
            PruningError: the model cannot be traced, scored or, once pruned, run.
        """
        if target.unit == "latency":
            self._reach_latency(target, progress)
            return
        target = self._relative(target)
        rounds = rounds or self._rounds(target)
        for done in range(1, rounds + 1):
            self.prune_once(target, done / rounds, goal)
            if progress is not None:
                progress(done, rounds)
        self.check(target)
        # The next target starts from here.
        self.start = 1 - target.value if target.is_ratio else None

    def prune_once(self, target, part=1.0, goal=None):
        """Prune, refit and count in one round; the model is traced once.

        Args:
            target (Target): where the way leads.
            part (float): how much of the way from the last target is done afterwards, ≤ 1.
            goal (Target): the furthest target of the run, if not this one.

        Raises:
            TargetUnreachable: the goal is out of reach; nothing is pruned then.
            PruningError: the model cannot be traced, scored or, once pruned, run.
        """
        target = self._relative(target)
        goal = target if goal is None else self._relative(goal)
        with prunable(self.model):
            with self.seconds.of("tracing"):
                graph, groups = proven_graph(
                    self.model,
                    self.inputs,
                    self.options.ignored_layers,
                    self.options.pruning_ratio_dict,
                    self._frozen,
                    self._shown,
                )
            self._frozen, self._telling = graph.frozen, graph.batches
            remember_predictions(self.model, config_layers(graph, groups))
            channels = self._choose(target, part, goal, graph, groups)
            distributed.check_same("channels to remove", lambda: sorted(channels.items()))
            if self._wants_reconstruction() and self._reconstruction is None:
                with naming_data_faults(self.model), self.seconds.of("dense features"):
                    self._reconstruction = Reconstruction(self.model, self.batches)
            with naming_misfits(self.model):
                for index, group_channels in channels.items():
                    graph.prune(groups[index], group_channels, self.kept)
                self.model.zero_grad(set_to_none=True)
                sync_attributes(self.model)
                with self.seconds.of("counting"):
                    self._counts = count_costs(self.model, self.inputs, self._with_memory)
            if self._reconstruction is not None and not self.history.is_behind:
                self._reconstruction(self.model, self.kept, self.seconds)
        self.history.add(groups, channels, self.model, self.notes)
        distributed.copy_from_first([*self.model.parameters(), *self.model.buffers()])
        with self.seconds.of("checks"):
            self._verify()

    def check(self, target):
        """Refuse a model that is not within tolerance of its target.

        Peaks of memory come in coarse steps: being further below the target is noted.

        Args:
            target (Target): a pruning ratio is always met.

        Raises:
            TargetUnreachable: the model is too far from it.
        """
        if target.is_ratio:
            return
        target = self._relative(target)
        now = self.totals()[target.unit] / self.dense[target.unit]
        self.notes += check_met(target, now, self.options.rounding)

    def try_own_runs(self, dense):
        """Run the model's own inference and, with data, its training; note what cannot run.

        Args:
            dense (Snapshot): of the model before it was pruned.

        Raises:
            PruningError: the pruned model fails where the dense one does not.
        """
        with self.seconds.of("checks"):
            notes = check_own_runs(
                self.model, dense, small_inputs(self.model, self.inputs), self._telling
            )
        self.notes += [note for note in notes if note not in self.notes]

    def totals(self):
        """FLOPs, parameters and activations of the model as it is (dict[str, int])."""
        return total_costs(self.model, self._counts)

    def report(self):
        """Costs and widths before and now.

        Returns:
            PruningReport: without ``wall_s``.
        """
        after = layer_widths(self.model)
        totals = {
            unit: {"before": self.dense[unit], "after": now} for unit, now in self.totals().items()
        }
        memory = totals.pop("memory", {})
        return PruningReport(
            **totals,
            memory_mb={when: amount / 1e6 for when, amount in memory.items()},
            layers={
                name: {"before": width, "after": after[name]} for name, width in self.widths.items()
            },
            flops_by_module=flops_by_module(self.dense_flops, self._counts.flops),
            notes=self.notes,
            latency_ms=self._clock.ms if self._clock else {},
            runtime=self.options.runtime if self._clock else "",
            seconds={stage: round(spent, 3) for stage, spent in self.seconds.items()},
            uncounted_operators=list(self._counts.uncounted),
            round_to=self.rounding.to_dict(),
        )

    def begin_interval(self):
        """Follow parameters, and refit towards the model's features, from now on."""
        self.kept, self._reconstruction = KeptEntries(), None

    def state_dict(self):
        """What a run that goes on later must know of the model that it began with."""
        return {name: getattr(self, name) for name in _MEMORY}

    def load_state_dict(self, state):
        """Go on where another run of the same model was.

        Args:
            state (dict): from :meth:`state_dict`; empty for a run that begins here.
        """
        for name in _MEMORY:
            if name in state:
                setattr(self, name, state[name])

    def _wants_reconstruction(self):
        return self.options.reconstruct and self.batches is not None

    def _relative(self, target):
        """A target as a fraction of the model that the run began with."""
        return target.as_fraction(self.dense[target.unit]) if target.is_absolute else target

    def _rounds(self, target):
        """The fewest rounds of which each keeps enough."""
        if target.is_ratio:
            kept = (1 - target.value) / (self.start or 1.0)
        else:
            kept = target.value * self.dense[target.unit] / self.totals()[target.unit]
        return _rounds_to_keep(kept)

    def _reach_latency(self, target, progress):
        """Prune by the times of the layers, and measure the whole model after each round."""
        clock = self._clock or self._begin_latency()
        target, done = self._relative(target), 0
        enough = target.value * (1 + TOLERANCE)
        while clock.ratio > enough:
            if done == _LATENCY_ROUNDS:
                raise TargetUnreachable(
                    f"{target} was not met in {done} rounds: this machine still takes "
                    f"{target.words(clock.ratio)} as {self.options.runtime}; ask for max_flops "
                    "instead",
                    clock.ratio,
                )
            # The first round tells how well the times of the layers predict that of the model.
            left = target.value / clock.ratio
            rounds = max(2 - done, _rounds_to_keep(left))
            aim = clock.ratio * left ** (1 / rounds)
            self.prune_once(Target("max_latency", aim), goal=target)
            with self.seconds.of("latency"):
                clock(self.model)
            self.dense["latency"], done = clock.ms["before"], done + 1
            if progress is not None:
                progress(done, done + (clock.ratio > enough) * max(1, rounds - 1))
        if clock.ratio < (1 - _TOO_FAST) * target.value:
            self.notes.append(
                f"{target}: this machine takes {target.words(clock.ratio)}, less than asked for; "
                "widths come in steps, and times of layers only predict it"
            )

    def _begin_latency(self):
        if distributed.processes() > 1:
            raise ConfigError(ONE_CLOCK)
        step, runtime = self.options.rounding.multiple, self.options.runtime
        with self.seconds.of("latency"):
            self._clock = FormClock(runtime, self.model, self.inputs, step)
        self.dense["latency"] = self._clock.ms["before"]
        self.notes.append(
            f"latency is that of inference as {runtime} on this machine; times of single layers, "
            f"in {self._clock.timing.layers.path}, chose the widths"
        )
        return self._clock

    def _choose(self, target, part, goal, graph, groups):
        """Channels to remove in this round: group number → channel indices."""
        self._remember(graph, groups)
        dense = [self.dense_widths[group.root] for group in groups]
        timing = self._clock and self._clock.timing
        costs = CostModel(self.model, groups, self._counts, self._parameters, timing)
        if target.is_ratio:
            self.start = 1.0 if self.start is None else self.start
        else:
            self._check_reach(target, goal, groups, dense, partial(costs.cost, target.unit))
        if (channels := self.history.channels(groups)) is not None:
            return channels
        # Each round keeps the same fraction of what is left.
        if target.is_ratio:
            scores = self._scores(target, groups, dense, costs)
            search = Search(groups, scores, dense, self.options, part)
            return search.by_ratio(1 - self.start ** (1 - part) * (1 - target.value) ** part)
        final = target.value * self.dense[target.unit]
        amount = self.start ** (1 - part) * final**part
        scores = self._scores(target, groups, dense, costs, amount)
        excess = None
        if target.unit == "memory":
            excess = partial(costs.memory_above, limit=amount)
        for options in self.options.and_finer():
            search = Search(groups, scores, dense, options, part)
            channels = search.by_cost(partial(costs.cost, target.unit), amount, excess)
            # Rounds before the last one may be coarse.
            if search.reached >= (1 - TOLERANCE) * final:
                break
        self._note_finer(options)
        return channels

    def _remember(self, graph, groups):
        if self.dense_widths is None:
            graph.check_ratios(groups)
            self.dense_widths = {group.root: group.width for group in groups}
            self.notes += graph.notes + group_notes(groups) + ratio_notes(groups, self.options)
            self.notes += self._counts.notes()
            # The note's advice is to prune to a latency.
            self.notes += [] if self._clock else self._counts.region_notes()
        check_any(groups, self.model, self.notes)

    def _check_reach(self, target, goal, groups, dense, cost):
        # Widths alone decide what can be reached: ask before any score is computed.
        for options in self.options.and_finer():
            start, smallest = end_widths(groups, dense, options)
            if cost(smallest) <= goal.value * self.dense[goal.unit]:
                break
        check_goal(goal, cost(smallest) / self.dense[goal.unit], self.options.rounding)
        self._note_finer(options)
        self.options = options
        if self.start is None:
            self.start = cost(start)
            check_ratios(target, self.start / self.dense[target.unit])

    def _note_finer(self, options):
        wanted, taken = self.options.rounding.multiple, options.rounding.multiple
        note = f"multiples of {wanted} do not meet the target: some widths are multiples of {taken}"
        if taken < wanted and note not in self.notes:
            self.notes.append(note)

    def _scores(self, target, groups, dense, costs, limit=None):
        importance = build_importance(self.options.importance)
        prunable_groups = [group for group in groups if group.prunable]
        with self._naming_data_faults(), self.seconds.of("scoring"), self.history.scoring():
            scores = iter(score_groups(self.model, prunable_groups, importance, self.batches))
        scores = [next(scores) if group.prunable else None for group in groups]
        if self.sensitivity is not None:
            scores = self.sensitivity.rescale(scores, groups, dense)
        unit = self.options.normalize
        per_cost = getattr(self.sensitivity or importance, "per_cost", False)
        if unit is None and not target.is_ratio and per_cost:
            unit = target.unit
        if unit == "memory":
            return normalize_scores(scores, groups, partial(costs.memory_above, limit=limit))
        if unit is not None:
            scores = normalize_scores(scores, groups, partial(costs.cost, unit))
        return scores

    def _naming_data_faults(self):
        # Those of a function of the user's are his, and so are those of a score without data.
        ours = self.batches and not callable(self.options.importance)
        return naming_data_faults(self.model) if ours else contextlib.nullcontext()

    def _verify(self):
        """Run the pruned model, training-only branches included."""
        with naming_misfits(self.model), evaluating(self.model):
            head_outputs(self.model, small_inputs(self.model, self.inputs))


def _rounds_to_keep(fraction):
    """The fewest rounds of which each keeps enough, if a fraction is kept in the end."""
    return max(1, math.ceil(math.log(fraction) / math.log(_KEPT_PER_ROUND)))


def layer_widths(model):
    """Output channels of each conv and linear (dict[str, int])."""
    return {
        name: output_width(module)
        for name, module in model.named_modules()
        if is_prunable_layer(module)
    }
