"""Where a model ends: its raw, differentiable outputs and the layers that make them."""

import contextlib
import functools
from typing import NamedTuple

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from ...wrappers import unwrap
from ..architectures import architecture_of, run_own_training
from ..tracing.autograd import ancestors
from ..tracing.composite import CompositeOperator
from ..tracing.hooks import evaluating, forward_hooks
from ..tracing.layer_kinds import is_dynamic_head, is_norm, is_prunable_layer
from .forwards import forwards_of, run_stages
from .inputs import labelled_batch

# Packages whose classes run as the stages of the architectures have it.
_UPSTREAM = ("torch", "torchvision", "timm", "detectron2", "adet", "blendprune")


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

    With gradients on, the model's own inference and its training follow (:func:`forwards_of`), as
    long as there are layers that nothing has run yet, or all of them where the stages pass over
    code of the user's own, which may do anything. A layer may run for some images only: so as many
    batches are looked through as there are.

    Args:
        model (nn.Module): a detectron2-style model in eval mode, inside or outside the prunable
            view.
        batched_inputs (list[dict]): detectron2's format.
        inference_only (bool): leave out branches that only training runs.
        all_regions (bool): run the heads on as many regions as inference keeps, not on one.
        batches (Sequence[list[dict]]): labelled images to train on; without them: made-up labels.

    Attributes:
        calls (list[Call]): of the stages.
        own_calls (list[list[Call]]): of the model's own forwards that ran.
        failures (dict[str, Exception]): own forward → why it broke off.
        batches (list[list[dict]]): a few images of the first batch, and of every other one that
            runs layers that nothing before it runs.
    """

    def __init__(self, model, batched_inputs, inference_only=False, all_regions=False, batches=()):
        self.model = model = unwrap(model)
        # Raw outputs as the stages return them; empty unless all do.
        self._returned = []
        self.own_calls, self.failures = [], {}
        self.batches = [labelled_batch(batches)] if batches else []

        def stages():
            self._returned = run_stages(model, batched_inputs, not inference_only, all_regions)

        with _own_code(model) as own_code:
            self.calls = _record_calls(model, stages)
        self._own_code = bool(own_code)
        if not torch.is_grad_enabled() or inference_only:
            return
        own = self._own_forwards(batched_inputs, batches)
        while (self._own_code or self.unseen_layers()) and (forward := next(own, None)):
            self.own_calls.append(_record_calls(model, forward, self.failures))

    def _own_forwards(self, batched_inputs, batches):
        first = forwards_of(self.model, batched_inputs, self.batches)[1:-1]
        yield from first
        self.batches += self._telling(batches[1:])
        yield from forwards_of(self.model, batched_inputs, self.batches)[1 + len(first) :]

    def _telling(self, batches):
        """Those batches whose training runs layers that nothing before it runs."""
        found, unrun = [], {m for m in self.unrun_layers() if is_prunable_layer(m)}
        for number in range(len(batches)):
            if not unrun:
                break
            batch, ran = labelled_batch(batches[number:]), set()
            with torch.no_grad(), forward_hooks(unrun, lambda m, *_, ran=ran: ran.add(m)):
                # One that breaks off has shown what runs before.
                with contextlib.suppress(Exception):
                    run_own_training(self.model, batch)
            if ran:
                found.append(batch)
                unrun -= ran
        return found

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
        for calls, seen in self._news():
            if self._own_code:
                ends += [call for call in _ends(calls) if not self._repeats(call)]
            else:
                ends += _ends_of_new(calls, seen)
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
        for calls, seen in self._news():
            sinks |= _sinks(calls) - seen
        calls = (call for calls in (self.calls, *self.own_calls) for call in calls)
        return [m for m in dict.fromkeys(call.module for call in calls) if m in sinks]

    def unseen_layers(self):
        """The convs and linears that nothing has run where gradients could follow.

        Returns:
            list[nn.Module]: in the order of the model.
        """
        modules = list(self.model.modules())
        composites = [m.inner_modules() for m in modules if isinstance(m, CompositeOperator)]
        seen = _seen(self.calls).union(*composites, *map(_seen, self.own_calls))
        return [m for m in modules if is_prunable_layer(m) and m not in seen]

    def unrun_layers(self):
        """The layers that no forward has run at all.

        Returns:
            set[nn.Module]: convs, linears and norms.
        """
        ran = {call.module for calls in (self.calls, *self.own_calls) for call in calls}
        return {m for m in self.model.modules() if is_prunable_layer(m) or is_norm(m)} - ran

    def _repeats(self, call):
        """Whether a stage gave the same by the same layer."""
        return any(
            call.module is other.module and torch.equal(call.output, other.output)
            for other in self.calls
        )

    def _news(self):
        """Calls of each own forward, with the layers that ran before it."""
        seen = _seen(self.calls)
        for calls in self.own_calls:
            yield calls, set(seen)
            seen |= _seen(calls)


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


def _record_calls(model, run, failures=None):
    """Calls of every conv, linear, norm and dynamic head, as executed.

    With ``failures``, an exception ends the run and goes there, under the name of what ran.
    """
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
        try:
            run()
        except Exception as error:
            if failures is None:
                raise
            failures[run.name] = error
    return calls


@contextlib.contextmanager
def _own_code(model):
    """Modules of the user's own classes that run in another way than by being called.

    Yields:
        list[nn.Module]: filled when the block ends; the model itself counts, as its training may
        differ from what runs inside the block.
    """
    found = {
        module: None
        for module in model.modules()
        if module._modules and _package_of(type(module)) not in _UPSTREAM
    }
    passed_over = []
    with forward_hooks(found, lambda module, inputs: found.update({module: True}), before=True):
        yield passed_over
    passed_over += [module for module, called in found.items() if module is model or not called]


def _package_of(kind):
    # A class that a LazyConfig's file defines knows no module.
    return getattr(kind, "__module__", "").partition(".")[0]


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


def _ends_of_new(calls, seen):
    """The ends that depend on layers that have not been seen."""
    new = {call.node for call in calls if call.module not in seen}

    def depends(call):
        return call.node in new or not new.isdisjoint(ancestors([call.node]))

    return [call for call in _ends(calls) if depends(call)] if new else []


def _seen(calls):
    return {call.module for call in calls if call.node is not None}
