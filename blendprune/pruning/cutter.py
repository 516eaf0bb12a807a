"""A model on its way to a target: cut round by round, checked, reported."""

import copy
import math
from functools import partial

import torch

from ..errors import PruningError, TargetUnreachable
from .flops import CostModel, count_costs, count_params, median_latency
from .graph import ChannelGraph, group_notes, resolve_layers
from .outputs import head_outputs
from .result import PruningReport
from .scores import build_importance, normalize_scores, score_groups
from .search import TOLERANCE, Search
from .view import evaluating, is_prunable_layer, prunable

_LATENCY_ROUNDS = 12


class Cutter:
    """A model on its way to a target; it opens the prunable view for each round."""

    def __init__(self, model, inputs, importance, batches, limits, ignored_layers, normalize=None):
        self.model, self.inputs, self.limits = model, inputs, limits
        self.importance, self.batches, self.normalize = importance, batches, normalize
        # Held as modules: names may be patterns, and modules outlive the cuts.
        self.ignored = [] if not ignored_layers else list(resolve_layers(model, ignored_layers))
        self.parameters = [name for name, _ in model.named_parameters()]
        self.dense = self._totals()
        self.widths = _layer_widths(model)
        self.dense_widths = None
        self.notes = []

    def to_target(self, kind, target, rounds, progress):
        for done in range(1, rounds + 1):
            part = done / rounds
            if kind == "pruning_ratio":
                amount = 1 - (1 - target) ** part
            else:
                amount = target**part
            self.round(kind, amount, final=target)
            if progress is not None:
                progress(done, rounds)
        if kind != "pruning_ratio":
            self._check(kind, target)

    def to_latency(self, target, progress):
        dense = copy.deepcopy(self.model)
        flops, ratio = 1.0, 1.0
        for done in range(1, _LATENCY_ROUNDS + 1):
            # Latency falls slower than FLOPs; small steps keep the overshoot small.
            flops *= min(0.97, max(0.7, target / ratio))
            try:
                self.round("max_flops", flops, final=flops)
            except TargetUnreachable as error:
                raise TargetUnreachable(
                    f"max_latency {target} is out of reach: with {error.reachable:.3f} of the "
                    f"FLOPs, the least allowed, this machine takes about {ratio:.2f} of the time",
                    ratio,
                ) from None
            before, after = median_latency([dense, self.model], self.inputs)
            ratio = after / before
            if progress is not None:
                progress(done, _LATENCY_ROUNDS)
            if ratio <= target:
                return {"before": 1e3 * before, "after": 1e3 * after}
        raise TargetUnreachable(
            f"max_latency {target} was not met: with {flops:.2f} of the FLOPs this machine still "
            f"takes {ratio:.2f} of the time; ask for max_flops instead",
            ratio,
        )

    def round(self, kind, amount, final):
        """Cut once, to the amount; refuse first if the final amount is out of reach."""
        cut = False
        try:
            with prunable(self.model):
                graph = ChannelGraph(self.model, self.inputs, self.ignored)
                groups = graph.groups()
                channels = self._choose(kind, amount, final, graph, groups)
                cut = True
                for index, group_channels in channels.items():
                    graph.cut(groups[index], group_channels)
        except RuntimeError as error:
            if cut:
                raise self._misfit(error) from error
            raise
        self.model.zero_grad(set_to_none=True)

    def _misfit(self, error):
        # torch's word for shapes that do not fit: a layer was cut that its reader was not.
        return PruningError(
            f"the pruned {type(self.model).__name__} does not run ({error}); name the layers "
            "around that shape in ignored_layers"
        )

    def _choose(self, kind, amount, final, graph, groups):
        if self.dense_widths is None:
            self.dense_widths = {group.root: group.width for group in groups}
            self.notes = graph.notes + group_notes(groups)
        dense = [self.dense_widths[group.root] for group in groups]
        chosen = [group for group in groups if group.prunable]
        if not chosen:
            raise PruningError(
                f"{type(self.model).__name__} has no group of channels that may be pruned: "
                + ("; ".join(self.notes) or "every layer is a prediction layer")
            )
        costs = CostModel(self.model, groups, count_costs(self.model, self.inputs), self.parameters)
        cost = None if kind == "pruning_ratio" else partial(costs.cost, _unit(kind))
        if cost is not None:
            # Widths alone decide what can be reached, so ask before any score is computed.
            blank = [torch.zeros(g.width) if g.prunable else None for g in groups]
            self._refuse(kind, final, Search(groups, blank, dense, self.limits).least(cost))
        scores = iter(
            score_groups(self.model, chosen, build_importance(self.importance), self.batches)
        )
        scores = [next(scores) if group.prunable else None for group in groups]
        if self.normalize is not None:
            scores = normalize_scores(scores, groups, partial(costs.cost, self.normalize))
        search = Search(groups, scores, dense, self.limits)
        if cost is None:
            return search.by_ratio(amount)
        return search.by_cost(cost, amount * self.dense[_unit(kind)])

    def report(self):
        try:
            with evaluating(self.model):
                head_outputs(self.model, self.inputs)
        except RuntimeError as error:
            raise self._misfit(error) from error
        after = _layer_widths(self.model)
        totals = self._totals()
        return PruningReport(
            **{unit: {"before": self.dense[unit], "after": totals[unit]} for unit in totals},
            layers={
                name: {"before": width, "after": after[name]} for name, width in self.widths.items()
            },
            notes=self.notes,
        )

    def _totals(self):
        counts = count_costs(self.model, self.inputs)
        return {
            "flops": sum(counts["flops"].values()),
            "params": count_params(self.model),
            "activations": sum(counts["activations"].values()),
        }

    def _refuse(self, kind, target, least):
        reachable = least / self.dense[_unit(kind)]
        if reachable > target:
            raise TargetUnreachable(
                f"{kind} {target} is out of reach: the widths that are allowed go down to "
                f"{math.ceil(reachable * 1000) / 1000:.3f} of the dense model's {_unit(kind)}; ask "
                "for that, raise max_pruning_ratio, or ignore fewer layers",
                reachable,
            )

    def _check(self, kind, target):
        now = self._totals()[_unit(kind)] / self.dense[_unit(kind)]
        if not (1 - TOLERANCE) * target <= now <= target * (1 + 1e-6):
            raise TargetUnreachable(
                f"{kind} {target} cannot be met within {TOLERANCE:.0%}: the nearest widths "
                f"that are allowed give {now:.3f} of the dense model's {_unit(kind)}; ask for "
                "that, or lower round_to",
                now,
            )


def _unit(kind):
    return kind.removeprefix("max_")


def _layer_widths(model):
    return {
        name: getattr(module, "out_channels", None) or module.out_features
        for name, module in model.named_modules()
        if is_prunable_layer(module)
    }
