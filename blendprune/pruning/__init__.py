"""Pruning: what Torch-Pruning can see, where a model ends, which channels go, how many."""

from .flops import CostModel, count_activations, count_flops, count_params, median_latency
from .graph import ChannelGraph, ChannelGroup, Member, group_notes, resolve_layers
from .outputs import blendmask_outputs, head_outputs, prediction_layers
from .prune import config_inputs, prune
from .result import PruningReport, pruning_table
from .scores import (
    IMPORTANCES,
    NORMALIZERS,
    accumulate_gradients,
    build_importance,
    is_data_driven,
    score_groups,
)
from .view import prunable

__all__ = [
    "ChannelGraph",
    "ChannelGroup",
    "CostModel",
    "IMPORTANCES",
    "NORMALIZERS",
    "Member",
    "PruningReport",
    "accumulate_gradients",
    "blendmask_outputs",
    "build_importance",
    "config_inputs",
    "count_activations",
    "count_flops",
    "count_params",
    "group_notes",
    "head_outputs",
    "is_data_driven",
    "median_latency",
    "prediction_layers",
    "prunable",
    "prune",
    "pruning_table",
    "resolve_layers",
    "score_groups",
]
