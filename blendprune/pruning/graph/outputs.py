"""Where a model ends: its raw, differentiable outputs and the layers that make them."""

import functools
from typing import NamedTuple

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from ...wrappers import unwrap
from ..architectures import architecture_of, run_training_forward
from ..tracing.autograd import ancestors
from ..tracing.composite import CompositeOperator
from ..tracing.hooks import evaluating, forward_hooks
from ..tracing.layer_kinds import is_dynamic_head, is_norm, is_prunable_layer


class Call(NamedTuple):
    """One call of a conv, linear, norm or dynamic head.

    Attributes:
        module (nn.Module): the layer.
        output (Tensor): what it gave.
        node (torch.autograd.graph.Node | None): that made the output; None without gradients.
    """

    module: nn.Module
    output: torch.Tensor
    node: object


class TracedForward:
    """All stages of a model, run once, with what its layers gave.

    With gradients on, a training forward on dummy labels follows if the stages leave layers out.

    Args:
        model (nn.Module): a detectron2-style model in eval mode, inside or outside the prunable
            view.
        batched_inputs (list[dict]): detectron2's format.
        inference_only (bool): leave out branches that only training runs.
        all_regions (bool): run the heads on as many regions as inference keeps, not on one.
    """

    def __init__(self, model, batched_inputs, inference_only=False, all_regions=False):
        self.model = model = unwrap(model)
        stages = architecture_of(model).stages(batched_inputs, not inference_only)
        # Raw outputs as the stages return them; empty unless all do.
        self._returned = []
        self.calls = _record_calls(model, lambda: self._run(stages, all_regions))
        self.training_calls = []
        if torch.is_grad_enabled() and not inference_only and self._leaves_layers_out():
            self.training_calls = _record_calls(
                model, lambda: run_training_forward(model, batched_inputs)
            )

    def outputs(self):
        """Raw outputs that together depend on every branch.

        They are those that the stages return, where all do, and the outputs of layers that feed no
        other. Without gradients nothing tells the latter: then they are the outputs of all layers,
        unless the stages return theirs.

        Returns:
            list[Tensor]: with gradient history if gradients were on.
        """
        if not torch.is_grad_enabled():
            return self._returned or [call.output for call in self.calls]
        outputs = list(self._returned)
        if outputs:
            # A layer that predicts the offsets of a deformable conv ends there.
            read, sinks = ancestors(output.grad_fn for output in outputs), _sinks(self.calls)
            ends = [c for c in self.calls if c.module in sinks and c.node not in read]
        else:
            ends = _ends(self.calls)
        seen = _seen(self.calls)
        ends += [call for call in _ends(self.training_calls) if call.module not in seen]
        return outputs + [call.output for call in ends]

    def prediction_layers(self):
        """The layers whose output width means something, and so must stay.

        They are the convs and linears whose output reaches no other conv or linear in inference,
        likewise those that only training runs, and the ends of the architecture's
        ``prediction_heads``, although other layers read them.

        Returns:
            list[nn.Module]: in execution order.
        """
        sinks = _sinks(self.calls)
        for part in architecture_of(self.model).prediction_heads():
            inside = set(part.modules())
            sinks |= _sinks([call for call in self.calls if call.module in inside])
        # A prediction of inference stays one, even if training feeds it to another layer.
        sinks |= _sinks(self.training_calls) - _seen(self.calls)
        calls = (*self.calls, *self.training_calls)
        return [m for m in dict.fromkeys(call.module for call in calls) if m in sinks]

    def _run(self, stages, all_regions):
        # Some detectors log scalars while they run and look for a storage.
        with EventStorage():
            found = [stage.run(stage.count if all_regions else 1) for stage in stages]
        # A stage may also return something else, which counts as nothing.
        if all(isinstance(outputs, list) for outputs in found):
            self._returned = [output for outputs in found for output in outputs]

    def _leaves_layers_out(self):
        modules = list(self.model.modules())
        composites = [m.inner_modules() for m in modules if isinstance(m, CompositeOperator)]
        seen = _seen(self.calls).union(*composites)
        return any(is_prunable_layer(module) and module not in seen for module in modules)


def head_outputs(model, batched_inputs, inference_only=False, all_regions=False):
    """Raw differentiable outputs that together depend on every branch of the model.

    Args:
        model, batched_inputs, inference_only, all_regions: as for :class:`TracedForward`.

    Returns:
        list[Tensor]: with gradient history if gradients are enabled.
    """
    return TracedForward(model, batched_inputs, inference_only, all_regions).outputs()


def prediction_layers(model, batched_inputs):
    """The layers whose output width means something, and so must stay.

    Args:
        model (nn.Module): a detectron2-style model in eval mode inside the prunable view.
        batched_inputs (list[dict]): detectron2's format.

    Returns:
        list[nn.Module]: in execution order; see :meth:`TracedForward.prediction_layers`.
    """
    with torch.enable_grad():
        return TracedForward(model, batched_inputs).prediction_layers()


def inference_layers(model, batched_inputs):
    """The convs and linears that inference runs, by the first stage that runs them.

    Args:
        model (nn.Module): a detectron2-style model, inside or outside the prunable view.
        batched_inputs (list[dict]): detectron2's format.

    Returns:
        dict[nn.Module, int]: number of the stage; layers that only training runs are left out.
    """
    found = {}
    with evaluating(model), EventStorage():
        for number, stage in enumerate(architecture_of(model).stages(batched_inputs)):
            for call in _record_calls(model, functools.partial(stage.run, 1)):
                if is_prunable_layer(call.module):
                    found.setdefault(call.module, number)
    return found


def _record_calls(model, run):
    """Calls of every conv, linear, norm and dynamic head, as executed."""
    calls = []

    def record(module, inputs, output):
        if isinstance(output, torch.Tensor):
            # Read now: an in-place activation puts its own grad_fn on the output.
            calls.append(Call(module, output, output.grad_fn))

    layers = [
        module
        for module in model.modules()
        if is_prunable_layer(module) or is_norm(module) or is_dynamic_head(module)
    ]
    with forward_hooks(layers, record):
        run()
    return calls


def _sinks(calls):
    """Modules among the convs and linears called whose output feeds none of the others."""
    layer_of = {
        call.node: call.module
        for call in calls
        if call.node is not None and is_prunable_layer(call.module)
    }
    sources = (source for node in layer_of for source, _ in node.next_functions)
    feeding = {layer_of[node] for node in ancestors(sources) if node in layer_of}
    return set(layer_of.values()) - feeding


def _ends(calls):
    """The calls that feed no other: prediction layers, or norms behind them."""
    traced = [call for call in calls if call.node is not None]
    read = ancestors(source for call in traced for source, _ in call.node.next_functions)
    return [call for call in traced if call.node not in read]


def _seen(calls):
    return {call.module for call in calls if call.node is not None}
