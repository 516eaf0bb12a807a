"""What could be cut: every group of channels, its widths, what stays and why."""

from dataclasses import asdict, dataclass, field
from functools import partial

import torch
from tabulate import tabulate

from .cost.count import CostModel, count_costs, total_costs
from .graph.channel_graph import ChannelGraph
from .prune import check_inputs, check_layers, check_limits
from .search.search import Search, allowed_widths, ratio_notes
from .tracing.snapshot import Snapshot
from .tracing.view import prunable


@dataclass
class GroupPlan:
    """What may become of the channels of one group.

    Attributes:
        root (str): name of the layer that the group is named after.
        width (int): channels now.
        least (int): the smallest width it may take; ``width`` where it stays.
        most (int): the largest it may take below ``width``; ``width`` where it stays.
        step (int): it may take every multiple of this from ``least`` to ``most``; 0 where it stays.
        ratio (float | None): what ``pruning_ratio_dict`` has it lose; then least and most are one.
        stays (str): why the width stays; empty if it may change.
        flops (int): FLOPs of the layers that make and normalise its channels. Each layer counts in
            one group, so that groups add up to the model, less what no group has (resizing).
        params (int): their parameters.
        members (list[Member]): layers, roles (``"out"`` makes or normalises the channels, ``"in"``
            reads them), and how many entries of the layer one channel stands for.
    """

    root: str
    width: int
    least: int
    most: int
    step: int
    ratio: float | None
    stays: str
    flops: int
    params: int
    members: list


@dataclass
class PruningPlan:
    """What :func:`blendprune.plan` found.

    Attributes:
        groups (list[GroupPlan]): in the order of the model.
        flops (dict[str, float]): ``"now"`` and the ``"least"`` that can be reached, for the example
            inputs up to the raw head outputs; one multiply-add is one FLOP.
        params (dict[str, float]): ``"now"`` and ``"least"``.
        activations (dict[str, float]): likewise, of the outputs of convs and linears.
        notes (list[str]): layers that no group has, and what was asked of some members of a group
            and holds for all; why a group stays, it says itself.
    """

    groups: list
    flops: dict
    params: dict
    activations: dict
    notes: list = field(default_factory=list)

    def to_dict(self):
        """The plan as JSON-ready data."""
        return asdict(self)


def plan(
    model,
    example_inputs=None,
    *,
    round_to=None,
    max_pruning_ratio=0.9,
    ignored_layers=(),
    pruning_ratio_dict=None,
):
    """Show what :func:`blendprune.prune` could cut with the same arguments. Nothing is changed.

    No weights are needed: a model as it was built will do.

    Args:
        model (nn.Module): as of :func:`blendprune.prune`, as are all other arguments.

    Returns:
        PruningPlan: groups, widths, reasons, and how far FLOPs and parameters can go down. A target
        above what can be reached is met unless steps are so wide that nothing falls within 2 %.

    Raises:
        ConfigError: an argument cannot hold.
        PruningError: the model cannot be traced.
    """
    limits = check_limits(max_pruning_ratio, round_to)
    inputs = check_inputs(model, example_inputs)
    check_layers(model, ignored_layers, pruning_ratio_dict, limits)
    snapshot = Snapshot(model)
    try:
        counts = count_costs(model, inputs)
        parameters = {name: p.numel() for name, p in model.named_parameters()}
        total = total_costs(model, counts)
        with prunable(model):
            graph = ChannelGraph(model, inputs, ignored_layers, pruning_ratio_dict)
            groups = graph.groups()
            graph.check_ratios(groups)
            costs = CostModel(model, groups, counts, parameters)
    finally:
        snapshot.restore()
    dense = [group.width for group in groups]
    blank = [torch.zeros(group.width) if group.prunable else None for group in groups]
    search = Search(groups, blank, dense, limits)
    least = {key: search.least(partial(costs.cost, key)) for key in total}
    own = _own(groups, counts["flops"], parameters)
    order = {name: place for place, name in enumerate(graph.names.values())}
    return PruningPlan(
        groups=sorted(
            (
                _group_plan(group, kept, limits, *cost)
                for group, kept, cost in zip(groups, search.widths, own)
            ),
            key=lambda group: order[group.root],
        ),
        notes=graph.notes + [n for g in groups for n in g.notes] + ratio_notes(groups, limits),
        **{key: {"now": total[key], "least": round(least[key])} for key in total},
    )


def _group_plan(group, kept, limits, flops, params):
    widths = allowed_widths(group, group.width, limits)
    step = -widths.step if widths else 0
    if group.ratio is not None:
        widths = [kept] if kept < group.width else []
        step = step if widths else 0
    stays = group.stays
    if not widths and not stays:
        stays = "no smaller width is allowed (round_to, max_pruning_ratio, ratio)"
    return GroupPlan(
        root=group.root,
        width=group.width,
        least=min(widths, default=group.width),
        most=max(widths, default=group.width),
        step=step,
        ratio=group.ratio,
        stays=stays,
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

        group                           width          may become    layers    FLOPs %
        ----------------------------  -------  ------------------  --------  ---------
        backbone.bottom_up.stem.conv1      64              7 … 63         4        0.8
        roi_heads.mask_head.mask_fcn1     256  64 … 224 by 32             3        6.3
        …

        stays                                width  why
        ---------------------------------  -------  ----------------
        roi_heads.box_predictor.cls_score       81  prediction layer

                            now    least    least / now
        ---------------  ------  -------  -------------
        FLOPs (G)        184.64     2.30          0.012
        params (M)        44.34     0.50          0.011
        activations (M)  221.40    24.08          0.109

    A group is named after one of its layers; ``layers`` counts all that lose the channel, those
    that read it included. ``FLOPs %`` is the share of those that make it.

    Args:
        plan (PruningPlan): from :func:`blendprune.plan`.

    Returns:
        str: several lines, no line break at the end.
    """
    total = plan.flops["now"]
    rows = [
        (g.root, g.width, _widths(g), len(_layers(g)), f"{100 * g.flops / total:.1f}")
        for g in plan.groups
        if not g.stays
    ]
    stays = [(g.root, g.width, g.stays) for g in plan.groups if g.stays]
    totals = [
        _total("FLOPs", plan.flops),
        _total("params", plan.params),
        _total("activations", plan.activations),
    ]
    parts = [
        _table(rows, "group", "width", "may become", "layers", "FLOPs %"),
        tabulate(stays, ("stays", "width", "why")) if stays else "",
        _table(totals, "", "now", "least", "least / now"),
        "\n".join(f"- {note}" for note in plan.notes),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(rows, *headers):
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, disable_numparse=True, colalign=align) if rows else ""


def _layers(group):
    return {member.layer for member in group.members}


def _widths(group):
    if group.least == group.most:
        return str(group.least)
    every = f" by {group.step}" if group.step > 1 else ""
    return f"{group.least} … {group.most}{every}"


def _total(name, values):
    now, least = values["now"], values["least"]
    unit, factor = ("G", 1e9) if now >= 1e10 else ("M", 1e6) if now >= 1e6 else ("k", 1e3)
    return f"{name} ({unit})", f"{now / factor:.2f}", f"{least / factor:.2f}", f"{least / now:.3f}"
