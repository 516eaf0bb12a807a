"""FLOPs and parameters: measured by fvcore, and predicted from the widths of the channel groups.

One multiply-add counts as one FLOP, as fvcore counts. What is counted is the network up to its raw
head outputs, as inference runs it: what follows (decoding, NMS, pasting masks) depends on the image
and is not pruned, and auxiliary heads of the training do not count.
"""

import math
import statistics
import time

import torch
from fvcore.nn import FlopCountAnalysis, parameter_count
from torch import nn

from .outputs import head_outputs
from .view import evaluating, is_norm, is_prunable_layer


class _HeadOutputs(nn.Module):
    """The model as a function of plain image tensors, which is what fvcore can trace."""

    def __init__(self, model, batched_inputs):
        super().__init__()
        self.model = model
        self.rest = [{k: v for k, v in x.items() if k != "image"} for x in batched_inputs]

    def forward(self, *images):
        inputs = [{**rest, "image": image} for rest, image in zip(self.rest, images)]
        return tuple(head_outputs(self.model, inputs, inference_only=True))


def count_flops(model, batched_inputs):
    """FLOPs of the model up to its raw head outputs, by module.

    Args:
        model (nn.Module): inside or outside the prunable view.
        batched_inputs (list[dict]): detectron2's format; the counts are for these images.

    Returns:
        dict[str, int]: own FLOPs of each module (those of its children not included); their sum
        is the model's.
    """
    images = tuple(x["image"] for x in batched_inputs)
    with evaluating(model):
        analysis = FlopCountAnalysis(_HeadOutputs(model, batched_inputs), images)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        by_module = analysis.tracer_warnings("none").by_module()
    own = {}
    for name, module in model.named_modules():
        path = f"model.{name}" if name else "model"
        children = (f"{path}.{child}" for child, _ in module.named_children())
        own[name] = by_module[path] - sum(by_module[child] for child in children)
    return own


def count_params(model):
    """Number of parameters of the model, by fvcore (buffers, so FrozenBN, are none)."""
    return int(parameter_count(model)[""])


class CostModel:
    """FLOPs and parameters as functions of group widths.

    A conv's FLOPs and weights go with in-width times out-width, a norm's with its width; operators
    outside any layer (interpolation) are taken as constant, so FLOPs are never under-estimated.

    Args:
        model (nn.Module): inside the prunable view.
        groups (list[ChannelGroup]): all groups, those that stay included.
        flops (dict[str, int]): from :func:`count_flops` at the present widths.
        parameters (Iterable[str]): names of what counts as a parameter outside the view.
    """

    def __init__(self, model, groups, flops, parameters):
        self.widths = [group.width for group in groups]
        ins, outs = {}, {}
        for index, group in enumerate(groups):
            for member in group.members:
                side = outs if member.role == "out" else ins
                side.setdefault(member.layer, []).append((index, member.per_channel))
        self._terms = {"flops": [], "params": []}
        parameters = set(parameters)
        for name, module in model.named_modules():
            layer = is_prunable_layer(module) or is_norm(module)
            width_in, width_out = _widths(module) if layer else (1, 1)
            source = (width_in, ins.get(name, ())) if layer else (1, ())
            target = (width_out, outs.get(name, ())) if layer else (1, ())
            if flops.get(name):
                self._terms["flops"].append((flops[name], source, target))
            for key, p in module.named_parameters(recurse=False):
                path = f"{name}.{key}" if name else key
                if path in parameters:
                    reads = p.dim() > 1
                    self._terms["params"].append(
                        (
                            p.numel(),
                            source if reads else (1, ()),
                            target if layer else (_longest(p), outs.get(path, ())),
                        )
                    )

    def cost(self, kind, widths):
        """Cost at other widths.

        Args:
            kind (str): ``"flops"`` or ``"params"``.
            widths (Sequence[int]): one a group, in the order given.

        Returns:
            float: FLOPs, or number of parameters.
        """
        lost = [now - width for now, width in zip(self.widths, widths)]
        return math.fsum(
            amount * _kept(source, lost) * _kept(target, lost)
            for amount, source, target in self._terms[kind]
        )


def _kept(side, lost):
    width, groups = side
    return 1 - sum(lost[index] * per_channel for index, per_channel in groups) / width


def _longest(p):
    return max(p.shape, default=1)


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


def median_latency(models, batched_inputs, runs=9):
    """Seconds of one forward up to the raw head outputs, models taking turns.

    Taking turns keeps a slow moment of the machine from falling on one model alone.

    Args:
        models (Sequence[nn.Module]): models to compare, on the same inputs.
        batched_inputs (list[dict]): detectron2's format.
        runs (int): timed forwards of each, after one that is not.

    Returns:
        list[float]: median seconds of each model.
    """
    times = [[] for _ in models]
    for run in range(runs + 1):
        for model, seconds in zip(models, times):
            with evaluating(model):
                start = time.perf_counter()
                outputs = head_outputs(model, batched_inputs, inference_only=True)
                if outputs[0].is_cuda:
                    torch.cuda.synchronize()
                if run:
                    seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]
