"""What a model costs at other widths."""

import math
from dataclasses import dataclass
from functools import partial

from torch import nn

from ..tracing.composite import CompositeOperator
from ..tracing.layer_kinds import is_norm, is_prunable_layer
from .layer_times import LayerTimes
from .memory import PeakMemory


@dataclass(frozen=True)
class Timing:
    """What is known about the latency of a model.

    Attributes:
        layers (LayerTimes): of its layers at other widths.
        ms (float): of the model as a whole, at its present widths.
        fixed_ms (float): the part of it that does not depend on widths.
    """

    layers: LayerTimes
    ms: float
    fixed_ms: float = 0.0


class CostModel:
    """FLOPs, parameters, activations, memory and latency as functions of group widths.

    FLOPs and weights of a conv are in proportion to its input width times its output width, those
    of a norm to its width. Operators outside any layer (interpolation) count as constant: FLOPs are
    never under-estimated. Memory is the largest of several sums (:class:`.memory.PeakMemory`).

    The latency is a fixed part, that of the layers, and a rest in proportion to the activations:
    what the model as a whole takes beyond both at the present widths.

    Args:
        model (nn.Module): inside the prunable view.
        groups (list[ChannelGroup]): all groups, prunable or not.
        counts (Counts): from :func:`count_costs` at the present widths.
        parameters (Iterable[str]): names of what counts as a parameter outside the view.
        timing (Timing): for the latency.
    """

    def __init__(self, model, groups, counts, parameters, timing=None):
        self.widths = [group.width for group in groups]
        ins, outs = {}, {}
        for index, group in enumerate(groups):
            for member in group.members:
                side = outs if member.role == "out" else ins
                side.setdefault(member.layer, []).append((index, member.per_channel))
        self._terms = {"flops": [], "params": [], "activations": []}
        parameters, sides = set(parameters), {}
        inner = composites(model)
        self._timed = []
        for name, module in model.named_modules():
            layer = is_prunable_layer(module) or is_norm(module)
            width_in, width_out = _widths(module) if layer else (1, 1)
            source = (width_in, ins.get(name, ())) if layer else (1, ())
            target = (width_out, outs.get(name, ())) if layer else (1, ())
            # What runs inside a composite operator costs in proportion to its channels.
            if name in inner:
                owner, width = inner[name]
                target = (width, outs.get(owner, ()))
            sides[name] = target
            if timing is not None and name in timing.layers:
                self._timed.append((partial(timing.layers.at, name), source, target))
            if counts.flops.get(name):
                self._terms["flops"].append((counts.flops[name], source, target))
            if counts.activations.get(name):
                self._terms["activations"].append((counts.activations[name], (1, ()), target))
            for key, p in module.named_parameters(recurse=False):
                path = f"{name}.{key}" if name else key
                if path in parameters:
                    reads = p.dim() > 1
                    self._terms["params"].append(
                        (
                            p.numel(),
                            source if reads else (1, ()),
                            target if layer else (_last(p), outs.get(path, ())),
                        )
                    )
        self._memory = PeakMemory(counts.moments or (), sides, self.widths)
        if timing is not None:
            self._fit(timing)

    def cost(self, kind, widths):
        """Cost at other widths.

        Args:
            kind (str): ``"flops"``, ``"params"``, ``"activations"``, or ``"memory"`` if that was
                counted, or ``"latency"`` with a timing.
            widths (Sequence[int]): one a group, in the order given.

        Returns:
            float: FLOPs, number of parameters or activations, bytes, or milliseconds.
        """
        if kind == "latency":
            rest = self._rest * self.cost("activations", widths)
            return self._fixed + self._share * self._layers_ms(widths) + rest
        lost = [now - width for now, width in zip(self.widths, widths)]
        if kind == "memory":
            return self._memory.peak(lost)
        return math.fsum(
            amount * _kept(source, lost) * _kept(target, lost)
            for amount, source, target in self._terms[kind]
        )

    def memory_above(self, widths, limit):
        """How far the memory at other widths is above a limit, all moments added up.

        It falls with every group that has to shrink, not only with those of the peak.

        Args:
            widths (Sequence[int]): as for :meth:`cost`.
            limit (float): in bytes.

        Returns:
            float: bytes; 0 if and only if the limit is met.
        """
        lost = [now - width for now, width in zip(self.widths, widths)]
        return self._memory.excess(lost, limit)

    def _layers_ms(self, widths):
        lost = [now - width for now, width in zip(self.widths, widths)]
        return math.fsum(
            at(source[0] * _kept(source, lost), target[0] * _kept(target, lost))
            for at, source, target in self._timed
        )

    def _fit(self, timing):
        """Make the latency at the present widths what was measured."""
        self._fixed, layers = timing.fixed_ms, self._layers_ms(self.widths)
        network = max(0.0, timing.ms - timing.fixed_ms)
        # Alone, layers may take longer than in the model, where their inputs are in the cache.
        self._share = min(1.0, network / layers) if layers else 1.0
        rest = network - self._share * layers
        self._rest = rest / self.cost("activations", self.widths)


def _kept(side, lost):
    width, groups = side
    return 1 - sum(lost[index] * per_channel for index, per_channel in groups) / width


def _last(p):
    # The dimension that Torch-Pruning prunes of a parameter outside any layer.
    return next((size for size in reversed(p.shape) if size > 1), 1)


def composites(model):
    """The modules inside composite operators.

    Args:
        model (nn.Module): inside the prunable view.

    Returns:
        dict[str, tuple[str, int]]: name of each such module → name of the operator, and its width.
    """
    names = {module: name for name, module in model.named_modules()}
    return {
        names[inner]: (name, module.operator_width())
        for module, name in names.items()
        if isinstance(module, CompositeOperator) and not module.frozen_reason
        for inner in module.inner_modules()
    }


def _widths(module):
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.in_channels, module.out_channels
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.GroupNorm):
        return 1, module.num_channels
    if isinstance(module, nn.LayerNorm):
        return 1, module.normalized_shape[-1]
    return 1, module.num_features
