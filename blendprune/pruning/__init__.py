"""Pruning: what Torch-Pruning can see, where a model ends, which channels go, how many."""

from .cost.count import CostModel, count_activations, count_flops, count_params
from .graph.channel_graph import ChannelGraph
from .graph.groups import ChannelGroup, Member, group_notes
from .graph.layer_patterns import resolve_layers, resolve_ratios
from .graph.outputs import blendmask_outputs, head_outputs, prediction_layers
from .plan import GroupPlan, PruningPlan, plan, plan_table
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
from .search.measure import measure_sensitivity
from .search.sensitivity import GroupSensitivity, Sensitivity, load_sensitivity, sensitivity_table
from .tracing.view import prunable

__all__ = [
    "ChannelGraph",
    "ChannelGroup",
    "CostModel",
    "IMPORTANCES",
    "GroupPlan",
    "GroupSensitivity",
    "NORMALIZERS",
    "Member",
    "PruningPlan",
    "PruningReport",
    "Sensitivity",
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
    "load_sensitivity",
    "measure_sensitivity",
    "plan",
    "plan_table",
    "prediction_layers",
    "prunable",
    "prune",
    "pruning_table",
    "resolve_layers",
    "resolve_ratios",
    "score_groups",
    "sensitivity_table",
]
