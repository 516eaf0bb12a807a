"""What could be pruned: every group of channels, its widths, what stays and why."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tabulate import tabulate
from torch import nn

from .cost.cost_model import CostModel
from .cost.count import count_costs, total_costs
from .cost.memory import MEMORY_WORDS
from .graph.groups import Member
from .graph.inputs import example_inputs_for
from .graph.proof import proven_graph
from .scores import first_batches
from .search.options import LayerRatios, PruningOptions
from .search.rounding import AUTO, rounding_words
from .search.search import allowed_widths, end_widths, ratio_notes
from .tracing.entry import entry_point
from .tracing.snapshot import Snapshot
from .tracing.view import prunable

# Of the data, to see what training runs.
_IMAGES = 16

_GROUP_WORDS = (
    "group: layers that can only lose a channel together, named after one of them; width: their "
    "channels now; min … max: what may be left; layers: how many lose the channel"
)


@dataclass
class GroupPlan:
    """Which widths one group may take.

    Attributes:
        root (str): name of the layer that the group is named after.
        width (int): channels now.
        min_width (int): the smallest width that it may take in these steps; ``width`` if that
            stays.
        max_width (int): the largest that it may take below ``width``; ``width`` if that stays.
        step (int): every multiple of it from ``min_width`` to ``max_width`` is allowed; 0 if the
            width stays.
        ratio (float | None): the fraction that ``pruning_ratio_dict`` removes; ``min_width`` and
            ``max_width`` are then equal.
        frozen_reason (str): why the width stays; empty if it may change.
        flops (int): FLOPs of the layers that make and normalise its channels. Each layer counts in
            one group: groups add up to the model, without what no group has (resizing).
        params (int): parameters of these layers.
        members (list[Member]): layers, roles (``"out"`` makes or normalises the channels, ``"in"``
            reads them), and how many entries of the layer one channel stands for.
    """

    root: str
    width: int
    min_width: int
    max_width: int
    step: int
    ratio: float | None
    frozen_reason: str
    flops: int
    params: int
    members: list[Member]


@dataclass
class PruningPlan:
    """What :func:`blendprune.plan` found.

    Attributes:
        groups (list[GroupPlan]): in the order of the model.
        flops (dict[str, float]): ``"now"``, and the ``"min"`` that can be reached, for the example
            inputs up to the raw head outputs; one multiply-add is one FLOP.
        params (dict[str, float]): ``"now"`` and ``"min"``.
        activations (dict[str, float]): likewise, of the outputs of convs and linears.
        memory_mb (dict[str, float]): megabytes (10^6 bytes) of the activation tensors that are
            alive together, at their peak in such a forward; weights do not count.
        notes (list[str]): layers that no group has; settings of some members of a group that hold
            for all; operators that count as 0 FLOPs; heads whose FLOPs are those of many regions.
            Groups say themselves why they stay.
        uncounted_operators (list[str]): operators without a FLOPs formula; see
            :func:`blendprune.register_flops`.
        round_to (dict): what new widths are multiples of: ``"multiple"``, ``"auto"`` (whether the
            device decided), ``"reason"``. ``step`` of a group may be finer, or coarser.
    """

    groups: list[GroupPlan]
    flops: dict[str, float]
    params: dict[str, float]
    activations: dict[str, float]
    memory_mb: dict[str, float]
    notes: list[str] = field(default_factory=list)
    uncounted_operators: list[str] = field(default_factory=list)
    round_to: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data."""
        return asdict(self)


@entry_point
def plan(
    model: nn.Module,
    example_inputs: list[dict[str, Any]] | None = None,
    *,
    round_to: int | Literal["auto"] = AUTO,
    max_pruning_ratio: float = 0.9,
    ignored_layers: Sequence[str | nn.Module] = (),
    pruning_ratio_dict: LayerRatios | None = None,
    data: Iterable[list[dict[str, Any]]] | None = None,
) -> PruningPlan:
    """Show what :func:`blendprune.prune` could remove with the same arguments.

    The model stays unchanged. No weights are needed: a model as it was built will do.

    Args:
        model (nn.Module): as for :func:`blendprune.prune`, like all other arguments.
        data (Iterable[list[dict]]): its first 16 images show what training runs; without them,
            training runs on made-up labels.

    Returns:
        PruningPlan: groups, widths, reasons, and how far FLOPs and parameters can go down. A target
        above that minimum is met, unless steps are so wide that no widths are within 2 % of it.

    Raises:
        ConfigError: an argument is invalid.
        PruningError: the model cannot be traced.
    """
    options = PruningOptions(
        round_to=round_to,
        max_pruning_ratio=max_pruning_ratio,
        ignored_layers=ignored_layers,
        pruning_ratio_dict=pruning_ratio_dict,
        device=next(model.parameters()).device,
    )
    batches = None if data is None else first_batches(data, model, images=_IMAGES)
    inputs = example_inputs_for(model, example_inputs, batches)
    options.check_layers(model)
    snapshot = Snapshot(model)
    try:
        parameters = {name: p.numel() for name, p in model.named_parameters()}
        with prunable(model):
            counts = count_costs(model, inputs, memory=True)
            graph, groups = proven_graph(
                model, inputs, ignored_layers, pruning_ratio_dict, batches=batches or ()
            )
            graph.check_ratios(groups)
            costs = CostModel(model, groups, counts, parameters)
        total = total_costs(model, counts)
    finally:
        snapshot.restore()
    dense = [group.width for group in groups]
    start, _ = end_widths(groups, dense, options)
    # prune takes finer steps where a target needs them.
    _, smallest = end_widths(groups, dense, options.and_finer()[-1])
    own = _own(groups, counts.flops, parameters)
    order = {name: place for place, name in enumerate(graph.names.values())}
    ranges = {
        unit: {"now": now, "min": round(costs.cost(unit, smallest))} for unit, now in total.items()
    }
    memory = ranges.pop("memory")
    notes = graph.notes + [note for group in groups for note in group.notes]
    return PruningPlan(
        groups=sorted(
            (
                _group_plan(group, width, options, *cost)
                for group, width, cost in zip(groups, start, own)
            ),
            key=lambda group: order[group.root],
        ),
        notes=notes + ratio_notes(groups, options) + counts.notes() + counts.region_notes(),
        uncounted_operators=list(counts.uncounted),
        round_to=options.rounding.to_dict(),
        memory_mb={when: amount / 1e6 for when, amount in memory.items()},
        **ranges,
    )


def _group_plan(group, start, options, flops, params):
    widths = allowed_widths(group, group.width, options)
    step = -widths.step if widths else 0
    if group.ratio is not None:
        widths = [start] if start < group.width else []
        step = step if widths else 0
    reason = group.frozen_reason
    if not widths and not reason:
        reason = "no smaller width is allowed (round_to, max_pruning_ratio, ratio)"
    return GroupPlan(
        root=group.root,
        width=group.width,
        min_width=min(widths, default=group.width),
        max_width=max(widths, default=group.width),
        step=step,
        ratio=group.ratio,
        frozen_reason=reason,
        flops=flops,
        params=params,
        members=group.members,
    )


def _own(groups, flops, parameters):
    """(FLOPs, parameters) of the layers that make each group's channels."""
    by_layer = {}
    for name, numel in parameters.items():
        layer = name.rpartition(".")[0]
        by_layer[layer] = by_layer.get(layer, 0) + numel
    seen, own = set(), []
    for group in groups:
        layers = {member.layer for member in group.members if member.role == "out"} - seen
        seen |= layers
        own.append((sum(flops.get(x, 0) for x in layers), sum(by_layer.get(x, 0) for x in layers)))
    return own


def plan_table(plan):
    """The plan as text: what may shrink, what stays and why, totals, notes.

    ::

        group                           width         min … max    layers    FLOPs %
        ----------------------------  -------  ----------------  --------  ---------
        backbone.bottom_up.stem.conv1      64            7 … 63         4        0.8
        roi_heads.mask_head.mask_fcn1     256  64 … 224 by 32           3        6.3
        …
        group: layers that can only lose a channel together, named after one of them; width: …

        frozen                               width  reason
        ---------------------------------  -------  ----------------
        roi_heads.box_predictor.cls_score       81  prediction layer

                            now    min    min / now
        ---------------  ------  -----  -----------
        FLOPs (G)        184.64   2.30        0.012
        params (M)        44.34   0.50        0.011
        activations (M)  221.40  24.08        0.109
        memory (MB)      187.11  40.20        0.215

        widths: multiples of 16 (auto: AVX-512, float32)
        memory: peak of the activation tensors that are alive together in one forward of …

    A group is named after one of its layers. ``layers`` counts all layers that lose the channel,
    those that read it included. ``FLOPs %`` is the share of the layers that make it.

    Args:
        plan (PruningPlan): from :func:`blendprune.plan`.

    Returns:
        str: several lines, no line break at the end.
    """
    total = plan.flops["now"]
    rows = [
        (g.root, g.width, _widths(g), len(_layers(g)), f"{100 * g.flops / total:.1f}")
        for g in plan.groups
        if not g.frozen_reason
    ]
    frozen = [(g.root, g.width, g.frozen_reason) for g in plan.groups if g.frozen_reason]
    totals = [
        _total("FLOPs", plan.flops),
        _total("params", plan.params),
        _total("activations", plan.activations),
        _row("memory (MB)", plan.memory_mb, 1),
    ]
    table = _table(rows, "group", "width", "min … max", "layers", "FLOPs %")
    parts = [
        "\n".join(filter(None, [table, table and _GROUP_WORDS])),
        tabulate(frozen, ("frozen", "width", "reason")) if frozen else "",
        _table(totals, "", "now", "min", "min / now"),
        f"widths: {rounding_words(plan.round_to)}\n{MEMORY_WORDS}",
        "\n".join(f"- {note}" for note in plan.notes),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(rows, *headers):
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, disable_numparse=True, colalign=align) if rows else ""


def _layers(group):
    return {member.layer for member in group.members}


def _widths(group):
    if group.min_width == group.max_width:
        return str(group.min_width)
    every = f" by {group.step}" if group.step > 1 else ""
    return f"{group.min_width} … {group.max_width}{every}"


def _total(name, values):
    now = values["now"]
    unit, factor = ("G", 1e9) if now >= 1e10 else ("M", 1e6) if now >= 1e6 else ("k", 1e3)
    return _row(f"{name} ({unit})", values, factor)


def _row(name, values, factor):
    now, fewest = values["now"], values["min"]
    return name, f"{now / factor:.2f}", f"{fewest / factor:.2f}", f"{fewest / now:.3f}"
