"""The one call: prune a model in place to a target."""

import copy
import math
import time

import torch
import yaml

from ..errors import ConfigError, PruningError, TargetUnreachable
from .flops import CostModel, count_flops, count_params, median_latency
from .graph import ChannelGraph, group_notes, resolve_layers
from .outputs import head_outputs
from .result import PruningReport
from .scores import as_batches, build_importance, is_data_driven, score_groups
from .search import TOLERANCE, Limits, Search
from .snapshot import Snapshot
from .view import evaluating, is_prunable_layer, prunable

_TARGETS = ("pruning_ratio", "max_flops", "max_params", "max_latency")
_LATENCY_ROUNDS = 12


def prune(
    model,
    example_inputs=None,
    *,
    pruning_ratio=None,
    max_flops=None,
    max_params=None,
    max_latency=None,
    importance="taylor",
    global_pruning=True,
    isomorphic=False,
    round_to=None,
    rounds=5,
    max_pruning_ratio=0.9,
    ignored_layers=(),
    data=None,
    progress=None,
):
    """Remove channels from ``model`` in place until a target is met.

    Prediction layers keep their width. If anything fails, the model is left as it was.

    Args:
        model (nn.Module): a detectron2-style model, on the device it is on.
        example_inputs (list[dict]): detectron2's format, ``"image"`` of (C, H, W); FLOPs and
            latency are those for these. None: one random image of the size and channels
            of the config that the model carries, or else the first image of ``data``.
        pruning_ratio (float): fraction of the channels to remove: of every group if ranked
            locally, of all together if globally.
        max_flops (float): FLOPs to keep, as a fraction of the dense model's (one multiply-add is
            one FLOP); met from below, within 2 %.
        max_params (float): parameters to keep, as a fraction; met likewise.
        max_latency (float): latency to keep, as a fraction, measured here, eagerly, on the
            example inputs; the FLOPs go down in steps until it is met.
        importance (str | Callable): a name in ``blendprune.pruning.IMPORTANCES``, or a callable
            from a group of Torch-Pruning to (width,) scores.
        global_pruning (bool): rank the channels of all groups together.
        isomorphic (bool): rank groups of the same make-up together (arXiv:2407.04616).
        round_to (int): new widths are multiples of it.
        rounds (int): cut in this many steps, scores anew before each.
        max_pruning_ratio (float): no group loses more than this fraction of its channels.
        ignored_layers (Sequence[str | nn.Module]): layers whose output width stays, by module,
            name, or glob pattern of names; a container stands for everything in it.
        data (Iterable[list[dict]]): finite batches as detectron2's training loaders give them,
            for importances that need gradients.
        progress (Callable): called as ``progress(done, rounds)`` after each round.

    Returns:
        PruningReport: FLOPs, parameters, widths.

    Raises:
        ConfigError: an argument cannot hold.
        TargetUnreachable: no widths that are allowed meet the target.
        PruningError: the model cannot be traced, scored or run.
    """
    start = time.perf_counter()
    targets = dict(zip(_TARGETS, (pruning_ratio, max_flops, max_params, max_latency)))
    kind, target = _one_target(targets)
    limits = _check_limits(
        kind, target, max_pruning_ratio, round_to, rounds, global_pruning, isomorphic
    )
    needs_data = is_data_driven(build_importance(importance))
    if needs_data and data is None:
        raise ConfigError(
            f"importance {_name_of(importance)!r} is computed from data: pass data=… "
            "(batches of a training loader), or use importance='magnitude'"
        )
    batches = as_batches(data) if data is not None else None
    inputs = _example_inputs(model, example_inputs, batches)
    resolve_layers(model, ignored_layers)

    snapshot = Snapshot(model)
    try:
        cutter = _Cutter(
            model, inputs, importance, batches if needs_data else None, limits, ignored_layers
        )
        if kind == "max_latency":
            latency = cutter.to_latency(target, progress)
        else:
            latency = {}
            cutter.to_target(kind, target, rounds, progress)
        report = cutter.report()
    except BaseException:
        snapshot.restore()
        raise
    report.latency_ms = latency
    report.wall_s = time.perf_counter() - start
    return report


class _Cutter:
    """A model on its way to a target; it opens the prunable view for each round."""

    def __init__(self, model, inputs, importance, batches, limits, ignored_layers):
        self.model, self.inputs, self.limits = model, inputs, limits
        self.importance, self.batches = importance, batches
        # Held as modules: names may be patterns, and modules outlive the cuts.
        self.ignored = [] if not ignored_layers else list(resolve_layers(model, ignored_layers))
        self.parameters = [name for name, _ in model.named_parameters()]
        self.flops = sum(count_flops(model, inputs).values())
        self.params = count_params(model)
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
        cost = self._cost(kind, groups)
        if cost is not None:
            # Widths alone decide what can be reached, so ask before any score is computed.
            blank = [torch.zeros(g.width) if g.prunable else None for g in groups]
            self._refuse(kind, final, Search(groups, blank, dense, self.limits).least(cost))
        scores = iter(
            score_groups(self.model, chosen, build_importance(self.importance), self.batches)
        )
        scores = [next(scores) if group.prunable else None for group in groups]
        search = Search(groups, scores, dense, self.limits)
        if cost is None:
            return search.by_ratio(amount)
        return search.by_cost(cost, amount * self._dense(kind))

    def report(self):
        try:
            with evaluating(self.model):
                head_outputs(self.model, self.inputs)
        except RuntimeError as error:
            raise self._misfit(error) from error
        after = _layer_widths(self.model)
        return PruningReport(
            flops={
                "before": self.flops,
                "after": sum(count_flops(self.model, self.inputs).values()),
            },
            params={"before": self.params, "after": count_params(self.model)},
            layers={
                name: {"before": width, "after": after[name]} for name, width in self.widths.items()
            },
            notes=self.notes,
        )

    def _cost(self, kind, groups):
        if kind == "pruning_ratio":
            return None
        flops = count_flops(self.model, self.inputs) if kind == "max_flops" else {}
        costs = CostModel(self.model, groups, flops, self.parameters)
        return lambda widths: costs.cost(_unit(kind), widths)

    def _dense(self, kind):
        return self.flops if kind == "max_flops" else self.params

    def _refuse(self, kind, target, least):
        reachable = least / self._dense(kind)
        if reachable > target:
            raise TargetUnreachable(
                f"{kind} {target} is out of reach: the widths that are allowed go down to "
                f"{math.ceil(reachable * 1000) / 1000:.3f} of the dense model's {_unit(kind)}; ask "
                "for that, raise max_pruning_ratio, or ignore fewer layers",
                reachable,
            )

    def _check(self, kind, target):
        if kind == "max_flops":
            now = sum(count_flops(self.model, self.inputs).values()) / self.flops
        else:
            now = count_params(self.model) / self.params
        if not (1 - TOLERANCE) * target <= now <= target * (1 + 1e-6):
            raise TargetUnreachable(
                f"{kind} {target} cannot be met within {TOLERANCE:.0%}: the nearest widths "
                f"that are allowed give {now:.3f} of the dense model's {_unit(kind)}; ask for "
                "that, or lower round_to",
                now,
            )


def _unit(kind):
    return {"max_flops": "flops", "max_params": "params"}[kind]


def _layer_widths(model):
    return {
        name: getattr(module, "out_channels", None) or module.out_features
        for name, module in model.named_modules()
        if is_prunable_layer(module)
    }


def _name_of(importance):
    return importance if isinstance(importance, str) else type(importance).__name__


def _one_target(targets):
    given = {name: value for name, value in targets.items() if value is not None}
    if len(given) != 1:
        raise ConfigError(
            f"exactly one of {', '.join(_TARGETS)} is wanted, got {', '.join(given) or 'none'}"
        )
    [(name, value)] = given.items()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(f"{name} must be a number between 0 and 1, got {value!r}")
    return name, float(value)


def _check_limits(kind, target, max_pruning_ratio, round_to, rounds, global_pruning, isomorphic):
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ConfigError(f"rounds must be a whole number of at least 1, got {rounds!r}")
    round_to = 1 if round_to in (None, 0) else round_to
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise ConfigError(f"round_to must be a whole number of at least 1, got {round_to!r}")
    if not isinstance(max_pruning_ratio, (int, float)) or not 0 < max_pruning_ratio < 1:
        raise ConfigError(
            f"max_pruning_ratio must be a number between 0 and 1, got {max_pruning_ratio!r}"
        )
    if kind == "pruning_ratio" and target > max_pruning_ratio:
        raise ConfigError(
            f"pruning_ratio {target} is above max_pruning_ratio {max_pruning_ratio}; raise the "
            "latter"
        )
    return Limits(round_to, float(max_pruning_ratio), bool(global_pruning), bool(isomorphic))


def _example_inputs(model, example_inputs, batches):
    if example_inputs is not None:
        if isinstance(example_inputs, dict):
            example_inputs = [example_inputs]
        inputs = list(example_inputs)
        if not inputs or not all(isinstance(x, dict) and "image" in x for x in inputs):
            raise ConfigError('example_inputs must be a list of dicts like {"image": tensor}')
        return inputs
    inputs = config_inputs(model)
    if inputs is not None:
        return inputs
    if batches is not None:
        return [{"image": batches[0][0]["image"]}]
    raise ConfigError('pass example_inputs=[{"image": tensor}]: the model carries no config')


def config_inputs(model):
    """One random image of the size and channels of the config that the model carries.

    Args:
        model (nn.Module): built under the overlay, or loaded by blendprune.

    Returns:
        list[dict] | None: ``[{"image": (C, S, S)}]``, values 0 to 255, S = INPUT.MIN_SIZE_TEST;
        None for a model without a config.
    """
    text = getattr(model, "blendprune_config", None)
    if not text:
        return None
    config = yaml.safe_load(text)
    side = config["INPUT"]["MIN_SIZE_TEST"]
    channels = len(config["MODEL"]["PIXEL_MEAN"])
    noise = torch.rand(channels, side, side, generator=torch.Generator().manual_seed(0))
    return [{"image": 255 * noise}]
