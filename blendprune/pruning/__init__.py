"""Pruning: tracing, architectures, graph, cost, scores, reconstruction, search; prune and plan."""

from .architectures import (
    ARCHITECTURES,
    Architecture,
    Stage,
    blendmask_outputs,
    register_architecture,
)
from .cost.cost_model import CostModel
from .cost.count import count_activations, count_flops, count_params
from .cost.formulas import register_flops
from .graph.channel_graph import ChannelGraph
from .graph.groups import ChannelGroup, Member, group_notes
from .graph.inputs import config_inputs
from .graph.layer_patterns import resolve_layers, resolve_ratios
from .graph.outputs import head_outputs, prediction_layers
from .plan import GroupPlan, PruningPlan, plan, plan_table
from .prune import prune
from .scores import (
    IMPORTANCES,
    NORMALIZERS,
    Importance,
    accumulate_gradients,
    build_importance,
    is_data_driven,
    score_groups,
)
from .search.measure import measure_sensitivity
from .search.result import PruningReport, pruning_table
from .search.sensitivity import GroupSensitivity, Sensitivity, sensitivity_table
from .search.sensitivity_file import check_output, load_sensitivity
from .tracing.channel_wise import register_channel_wise
from .tracing.view import prunable

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "ChannelGraph",
    "ChannelGroup",
    "CostModel",
    "IMPORTANCES",
    "GroupPlan",
    "GroupSensitivity",
    "Importance",
    "NORMALIZERS",
    "Member",
    "PruningPlan",
    "PruningReport",
    "Sensitivity",
    "Stage",
    "accumulate_gradients",
    "blendmask_outputs",
    "build_importance",
    "check_output",
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
    "register_architecture",
    "register_channel_wise",
    "register_flops",
    "resolve_layers",
    "resolve_ratios",
    "score_groups",
    "sensitivity_table",
]
