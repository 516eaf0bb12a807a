"""Pruning: what Torch-Pruning can see, where a model ends, which channels go, how many."""

from .flops import CostModel, count_flops, count_params, median_latency
from .graph import ChannelGraph, ChannelGroup, Member, group_notes, resolve_layers
from .outputs import blendmask_outputs, head_outputs, prediction_layers
from .prune import prune
from .result import PruningReport, pruning_table
from .scores import IMPORTANCES, accumulate_gradients, build_importance, score_groups
from .view import prunable

__all__ = [
    "ChannelGraph",
    "ChannelGroup",
    "CostModel",
    "IMPORTANCES",
    "Member",
    "PruningReport",
    "accumulate_gradients",
    "blendmask_outputs",
    "build_importance",
    "count_flops",
    "count_params",
    "group_notes",
    "head_outputs",
    "median_latency",
    "prediction_layers",
    "prunable",
    "prune",
    "pruning_table",
    "resolve_layers",
    "score_groups",
]
