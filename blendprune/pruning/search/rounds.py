"""A model on its way to a target: cut round by round, checked, reported."""

import copy
import math
from functools import partial

import torch

from ...errors import PruningError, TargetUnreachable
from ..cost.count import CostModel, count_costs, total_costs
from ..cost.latency import compare_latency
from ..graph.channel_graph import ChannelGraph
from ..graph.groups import group_notes
from ..graph.kept_entries import Survivors
from ..graph.outputs import head_outputs, small_inputs
from ..reconstruction import Reconstruction
from ..result import PruningReport
from ..scores import build_importance, normalize_scores, score_groups
from ..tracing.view import evaluating, is_prunable_layer, prunable
from .search import TOLERANCE, Search, ratio_notes

_LATENCY_ROUNDS = 12
# What a round leaves of what counts, at least. Of a larger cut the scores know too little; of many
# small ones each adds errors that the scores of the next do not see.
_LEAST_LEFT = 0.65


class Cutter:
    """A model on its way to a target; it opens the prunable view for each round."""

    def __init__(
        self,
        model,
        inputs,
        importance,
        batches,
        limits,
        ignored_layers,
        ratios,
        normalize=None,
        reconstruct=False,
        sensitivity=None,
    ):
        self.model, self.inputs, self.limits = model, inputs, limits
        self.importance, self.batches, self.normalize = importance, batches, normalize
        self.sensitivity = sensitivity
        self.ignored, self.ratios = ignored_layers, ratios
        # Told of every cut.
        self.survivors = Survivors()
        # Made right before the first cut, for it reads the features of the dense model.
        self.reconstruct, self.reconstruction = reconstruct, None
        self.parameters = [name for name, _ in model.named_parameters()]
        self.counts = count_costs(model, inputs)
        self.dense = self.totals()
        self.widths = _layer_widths(model)
        # Where the way to the present target began: what the model cost, or the share of channels.
        self.dense_widths, self.start = None, None
        # On the way to a latency: the model to compare with, the FLOPs asked for last, the latency.
        self.uncut, self.flops, self.latency = None, 1.0, {}
        self.notes = []

    def to_target(self, kind, target, rounds, progress, goal=None):
        """Cut in rounds, from where the last target left the model; see :meth:`round`."""
        if kind == "max_latency":
            self._to_latency(target, progress)
            return
        rounds = rounds or self._rounds(kind, target)
        for done in range(1, rounds + 1):
            self.round(kind, target, done / rounds, goal=goal)
            if progress is not None:
                progress(done, rounds)
        if kind != "pruning_ratio":
            self.check(kind, target)
        # The next target sets out from here.
        self.start = 1 - target if kind == "pruning_ratio" else None

    def _rounds(self, kind, target):
        """The fewest rounds of which each leaves enough."""
        if kind == "pruning_ratio":
            left = (1 - target) / (self.start or 1.0)
        else:
            left = target * self.dense[_unit(kind)] / self.totals()[_unit(kind)]
        return max(1, math.ceil(math.log(left) / math.log(_LEAST_LEFT)))

    def _to_latency(self, target, progress):
        if self.uncut is None:
            self.uncut, self.latency = copy.deepcopy(self.model), {"before": 1.0, "after": 1.0}
        done, ratio = 0, self.latency["after"] / self.latency["before"]
        while ratio > target:
            if done == _LATENCY_ROUNDS:
                raise TargetUnreachable(
                    f"max_latency {target} was not met: with {self.flops:.2f} of the FLOPs this "
                    f"machine still takes {ratio:.2f} of the time; ask for max_flops instead",
                    ratio,
                )
            # Latency falls slower than FLOPs; small steps keep the overshoot small.
            self.flops *= min(0.97, max(0.7, target / ratio))
            try:
                self.round("max_flops", self.flops)
            except TargetUnreachable as error:
                raise TargetUnreachable(
                    f"max_latency {target} is out of reach: with {error.reachable:.3f} of the "
                    f"FLOPs, the least allowed, this machine takes about {ratio:.2f} of the time",
                    ratio,
                ) from None
            self.latency = compare_latency(
                {"before": self.uncut, "after": self.model},
                self.inputs,
                runs=9,
                forward=_raw_outputs,
            )
            done, ratio = done + 1, self.latency["after"] / self.latency["before"]
            if progress is not None:
                progress(done, _LATENCY_ROUNDS)
            # Ratios of single layers may have taken more than was asked for.
            self.flops = min(self.flops, self.totals()["flops"] / self.dense["flops"])

    def round(self, kind, target, part=1.0, goal=None):
        """Cut once.

        Args:
            kind (str), target (float): what to reach.
            part (float): how much of the way from the last target to it is done afterwards, ≤ 1.
            goal (float): the furthest target of the run, if not this one.

        Raises:
            TargetUnreachable: the goal is out of reach; nothing is cut then.
            PruningError: the model cannot be traced, scored or, once cut, run.
        """
        cut = False
        try:
            with prunable(self.model):
                graph = ChannelGraph(self.model, self.inputs, self.ignored, self.ratios)
                groups = graph.groups()
                goal = target if goal is None else goal
                channels = self._choose(kind, target, part, goal, graph, groups)
                if self.reconstruct and self.reconstruction is None:
                    self.reconstruction = Reconstruction(self.model, self.batches)
                cut = True
                for index, group_channels in channels.items():
                    graph.cut(groups[index], group_channels, self.survivors)
        except RuntimeError as error:
            if cut:
                raise self._misfit(error) from error
            raise
        self.model.zero_grad(set_to_none=True)
        self._run()
        if self.reconstruction is not None:
            self.reconstruction(self.model, self.survivors)

    def _misfit(self, error):
        # torch's word for shapes that do not fit: a layer was cut that its reader was not.
        return PruningError(
            f"the pruned {type(self.model).__name__} does not run ({error}); name the layers "
            "around that shape in ignored_layers"
        )

    def _choose(self, kind, target, part, goal, graph, groups):
        if self.dense_widths is None:
            graph.check_ratios(groups)
            self.dense_widths = {group.root: group.width for group in groups}
            self.notes = graph.notes + group_notes(groups) + ratio_notes(groups, self.limits)
        dense = [self.dense_widths[group.root] for group in groups]
        chosen = [group for group in groups if group.prunable]
        if not chosen:
            raise PruningError(
                f"{type(self.model).__name__} has no group of channels that may be pruned: "
                + ("; ".join(self.notes) or "every layer is a prediction layer")
            )
        costs = CostModel(self.model, groups, self.counts, self.parameters)
        cost = None if kind == "pruning_ratio" else partial(costs.cost, _unit(kind))
        if cost is not None:
            # Widths alone decide what can be reached, so ask before any score is computed.
            blank = [torch.zeros(g.width) if g.prunable else None for g in groups]
            reach = Search(groups, blank, dense, self.limits)
            self._refuse(kind, goal, reach.least(cost))
            if self.start is None:
                self.start = cost(reach.widths)
                self._refuse_less(kind, target, self.start / self.dense[_unit(kind)])
        elif self.start is None:
            self.start = 1.0
        importance = build_importance(self.importance)
        scores = iter(score_groups(self.model, chosen, importance, self.batches))
        scores = [next(scores) if group.prunable else None for group in groups]
        if self.sensitivity is not None:
            scores = self.sensitivity.rescale(scores, groups, dense)
        unit = self.normalize
        per_cost = getattr(self.sensitivity or importance, "per_cost", False)
        if unit is None and cost is not None and per_cost:
            unit = _unit(kind)
        if unit is not None:
            scores = normalize_scores(scores, groups, partial(costs.cost, unit))
        search = Search(groups, scores, dense, self.limits, part)
        if cost is None:
            return search.by_ratio(1 - self.start ** (1 - part) * (1 - target) ** part)
        amount = self.start ** (1 - part) * (target * self.dense[_unit(kind)]) ** part
        return search.by_cost(cost, amount)

    def _run(self):
        """Run what was cut, training-only branches too, and count anew."""
        try:
            with evaluating(self.model):
                head_outputs(self.model, small_inputs(self.model, self.inputs))
            self.counts = count_costs(self.model, self.inputs)
        except RuntimeError as error:
            raise self._misfit(error) from error

    def report(self):
        after = _layer_widths(self.model)
        totals = self.totals()
        return PruningReport(
            **{unit: {"before": self.dense[unit], "after": totals[unit]} for unit in totals},
            layers={
                name: {"before": width, "after": after[name]} for name, width in self.widths.items()
            },
            notes=self.notes,
            latency_ms=self.latency,
        )

    def totals(self):
        """FLOPs, parameters and activations of the model as it is."""
        return total_costs(self.model, self.counts)

    def _refuse(self, kind, target, least):
        reachable = least / self.dense[_unit(kind)]
        if reachable > target:
            raise TargetUnreachable(
                f"{kind} {target} is out of reach: the widths that are allowed go down to "
                f"{math.ceil(reachable * 1000) / 1000:.3f} of the dense model's {_unit(kind)}; ask "
                "for that, raise max_pruning_ratio, or ignore fewer layers",
                reachable,
            )

    def _refuse_less(self, kind, target, given):
        # A latency is looked for step by step, and the first may well be a large one.
        if given < (1 - TOLERANCE) * target and self.uncut is None:
            raise TargetUnreachable(
                f"{kind} {target} cannot be met within {TOLERANCE:.0%}: pruning_ratio_dict alone "
                f"leaves {given:.3f} of the dense model's {_unit(kind)}; ask for that, or lower "
                "the ratios",
                given,
            )

    def check(self, kind, target):
        """Refuse a model that is not within tolerance of its target."""
        now = self.totals()[_unit(kind)] / self.dense[_unit(kind)]
        if not (1 - TOLERANCE) * target <= now <= target * (1 + 1e-6):
            raise TargetUnreachable(
                f"{kind} {target} cannot be met within {TOLERANCE:.0%}: the nearest widths "
                f"that are allowed give {now:.3f} of the dense model's {_unit(kind)}; ask for "
                "that, or lower round_to",
                now,
            )


def _raw_outputs(model, inputs):
    return head_outputs(model, inputs, inference_only=True, all_regions=True)


def _unit(kind):
    return kind.removeprefix("max_")


def _layer_widths(model):
    return {
        name: getattr(module, "out_channels", None) or module.out_features
        for name, module in model.named_modules()
        if is_prunable_layer(module)
    }
