"""FLOPs, parameters, activations: counted as fvcore counts, and predicted from group widths.

One multiply-add counts as one FLOP, as fvcore counts. What is counted is the network up to its raw
head outputs, as inference runs it: what follows (decoding, NMS, pasting masks) depends on the image
and is not pruned, and auxiliary heads of the training do not count. The heads of an R-CNN count for
as many regions as its config allows (RPN.POST_NMS_TOPK_TEST for the boxes,
TEST.DETECTIONS_PER_IMAGE for masks and keypoints), whatever is in the image; likewise what
AdelaiDet runs once an instance (FCOS.POST_NMS_TOPK_TEST; SOLOV2.NMS_PRE).
"""

import math
from math import prod

import torch
from detectron2.utils.events import EventStorage
from fvcore.nn import parameter_count
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from ...modeling.attention import is_attention
from ..graph.outputs import stages
from ..tracing.view import evaluating, is_norm, is_prunable_layer, prunable


def count_flops(model, batched_inputs):
    """FLOPs of the model up to its raw head outputs, by module.

    The numbers are fvcore's (``fvcore.nn.FlopCountAnalysis``) for every operator that it knows,
    but counted as the operators run: ``torch.jit.trace`` refuses what follows some heads. What is
    counted is not computed: its result is zeros of the right shape, so that neither weights nor
    detections matter, and a large image takes no longer than its zeros.

    SemanticSegmentor resizes its output to the image's ``"height"`` and ``"width"`` before it
    returns, and fvcore on the head outputs does not see that: the count is higher than fvcore's by
    that interpolation, 4 FLOPs an element.

    Args:
        model (nn.Module): inside or outside the prunable view.
        batched_inputs (list[dict]): detectron2's format; the counts are for these images.

    Returns:
        dict[str, int]: own FLOPs of each module (those of its children not included); their sum
        is the model's.
    """
    return count_costs(model, batched_inputs)["flops"]


def count_activations(model, batched_inputs):
    """Numbers in the outputs of all convs and linears, by module: what inference must hold.

    "Activations" as fvcore (``fvcore.nn.ActivationCountAnalysis``) and arXiv:2003.13678 count them.

    Args:
        model (nn.Module): inside or outside the prunable view.
        batched_inputs (list[dict]): detectron2's format; the counts are for these images.

    Returns:
        dict[str, int]: activations of each module (those of its children not included).
    """
    return count_costs(model, batched_inputs)["activations"]


def count_costs(model, batched_inputs):
    """What :func:`count_flops` and :func:`count_activations` give, in one forward.

    Returns:
        dict[str, dict[str, int]]: ``"flops"`` and ``"activations"``, each by module.
    """
    counter = _Counter(model)
    # In the view a layer is the same operator whatever the device and however it was compiled.
    with prunable(model), evaluating(model), EventStorage(), counter:
        for run, regions in stages(model, batched_inputs):
            # All regions cost the same, on top of what the part costs anyway, so two runs tell:
            # cost(n) = cost(1) + (n - 1) * (cost(2) - cost(1)).
            counter.times = 2 - regions
            run(1)
            if regions > 1:
                counter.times = regions - 1
                run(2)
    return {"flops": counter.own, "activations": counter.activations}


class _Counter(TorchDispatchMode):
    """Adds up FLOPs by the module that is running.

    Attributes:
        own (dict[str, int]): FLOPs of each module without its children.
        activations (dict[str, int]): numbers in what its convolutions and products give.
        times (int): how often what runs now counts.
    """

    def __init__(self, model):
        super().__init__()
        self.model, self.times = model, 1
        self.own = {name: 0 for name, _ in model.named_modules()}
        self.activations = dict(self.own)
        self._running, self._handles, self._results = [""], [], {}

    def __enter__(self):
        for name, module in self.model.named_modules():
            self._handles += [
                module.register_forward_pre_hook(lambda *_, name=name: self._running.append(name)),
                module.register_forward_hook(lambda *_: self._leave(), always_call=True),
            ]
        return super().__enter__()

    def __exit__(self, *error):
        for handle in self._handles:
            handle.remove()
        return super().__exit__(*error)

    def _leave(self):
        self._running.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        formula = _FORMULAS.get(func.overloadpacket.__name__)
        if formula is None:
            return func(*args, **(kwargs or {}))
        result = self._zeros(func, args, kwargs or {})
        self.own[self._running[-1]] += self.times * formula(result, *args)
        if formula in _PRODUCTS:
            self.activations[self._running[-1]] += self.times * result.numel()
        return result

    def _zeros(self, func, args, kwargs):
        """What the operator would give, of the right shape and type, in zeros."""
        leaves, structure = tree_flatten((args, kwargs))
        device = next(x.device for x in leaves if isinstance(x, torch.Tensor))
        known = [(x.shape, x.dtype) if isinstance(x, torch.Tensor) else x for x in leaves]
        key = (func, structure, *known)
        if key not in self._results:
            args, kwargs = tree_map_only(torch.Tensor, lambda x: x.to("meta"), (args, kwargs))
            self._results[key] = func(*args, **kwargs)
        return tree_map_only(
            torch.Tensor, lambda x: torch.zeros_like(x, device=device), self._results[key]
        )


def _convolution(result, x, weight, bias, stride, padding, dilation, transposed, *_):
    return x.shape[0] * prod(weight.shape) * prod((x if transposed else result).shape[2:])


def _matmul(result, a, b, *_):
    return prod(a.shape) * b.shape[-1]


def _biased_matmul(result, bias, a, b, *_):
    return _matmul(result, a, b)


def _deform_convolution(result, x, weight, *_):
    # torchvision's, whatever the offsets: a convolution at as many positions.
    return x.shape[0] * prod(weight.shape) * prod(result.shape[2:])


def _norm(result, x, *_):
    return 5 * prod(x.shape)


def _fixed_norm(result, x, *_):
    return 2 * prod(x.shape)


def _interpolation(weight):
    return lambda result, *_: weight * prod(result.shape)


def _recurrence(result, x, weight, recurrent_weight, *_):
    # One direction of an LSTM on a CPU; elsewhere it runs as products, which count as such.
    return prod(x.shape[:2]) * (weight.numel() + recurrent_weight.numel())


# By operator of aten, which is what reaches the dispatcher once composite operators are resolved.
_FORMULAS = {
    "convolution": _convolution,
    "mm": _matmul,
    "bmm": _matmul,
    "addmm": _biased_matmul,
    "baddbmm": _biased_matmul,
    "native_batch_norm": _fixed_norm,
    "cudnn_batch_norm": _fixed_norm,
    "miopen_batch_norm": _fixed_norm,
    "_native_batch_norm_legit_no_training": _fixed_norm,
    "_batch_norm_no_update": _fixed_norm,
    "native_group_norm": _norm,
    "native_layer_norm": _norm,
    "upsample_nearest2d": _interpolation(1),
    "upsample_bilinear2d": _interpolation(4),
    "grid_sampler_2d": _interpolation(4),
    "_adaptive_avg_pool2d": lambda result, x, *_: prod(x.shape),
    "deform_conv2d": _deform_convolution,
    "mkldnn_rnn_layer": _recurrence,
}
_PRODUCTS = {_convolution, _matmul, _biased_matmul, _deform_convolution}


def count_params(model):
    """Number of parameters of the model, by fvcore (buffers, so FrozenBN, are none)."""
    return int(parameter_count(model)[""])


def total_costs(model, counts):
    """What a model costs as a whole.

    Args:
        model (nn.Module): outside the prunable view, where FrozenBN has no parameters.
        counts (dict[str, dict[str, int]]): from :func:`count_costs`.

    Returns:
        dict[str, int]: ``"flops"``, ``"params"`` and ``"activations"``.
    """
    return {
        "flops": sum(counts["flops"].values()),
        "params": count_params(model),
        "activations": sum(counts["activations"].values()),
    }


class CostModel:
    """FLOPs, parameters and activations as functions of group widths.

    A conv's FLOPs and weights go with in-width times out-width, a norm's with its width; operators
    outside any layer (interpolation) are taken as constant, so FLOPs are never under-estimated.

    Args:
        model (nn.Module): inside the prunable view.
        groups (list[ChannelGroup]): all groups, those that stay included.
        counts (dict[str, dict[str, int]]): from :func:`count_costs` at the present widths.
        parameters (Iterable[str]): names of what counts as a parameter outside the view.
    """

    def __init__(self, model, groups, counts, parameters):
        self.widths = [group.width for group in groups]
        ins, outs = {}, {}
        for index, group in enumerate(groups):
            for member in group.members:
                side = outs if member.role == "out" else ins
                side.setdefault(member.layer, []).append((index, member.per_channel))
        self._terms = {"flops": [], "params": [], "activations": []}
        parameters = set(parameters)
        attentions = _owners(model)
        for name, module in model.named_modules():
            layer = is_prunable_layer(module) or is_norm(module)
            width_in, width_out = _widths(module) if layer else (1, 1)
            source = (width_in, ins.get(name, ())) if layer else (1, ())
            target = (width_out, outs.get(name, ())) if layer else (1, ())
            # Whatever attention does between its linears, it does head by head.
            owner = attentions.get(name)
            if owner:
                target = (3 * owner[1].proj.in_features, outs.get(owner[0], ()))
            if counts["flops"].get(name):
                self._terms["flops"].append((counts["flops"][name], source, target))
            if counts["activations"].get(name):
                self._terms["activations"].append((counts["activations"][name], (1, ()), target))
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

    def cost(self, kind, widths):
        """Cost at other widths.

        Args:
            kind (str): ``"flops"``, ``"params"`` or ``"activations"``.
            widths (Sequence[int]): one a group, in the order given.

        Returns:
            float: FLOPs, or number of parameters or activations.
        """
        lost = [now - width for now, width in zip(self.widths, widths)]
        return math.fsum(
            amount * _kept(source, lost) * _kept(target, lost)
            for amount, source, target in self._terms[kind]
        )


def _kept(side, lost):
    width, groups = side
    return 1 - sum(lost[index] * per_channel for index, per_channel in groups) / width


def _last(p):
    # The dimension that Torch-Pruning cuts of a parameter outside any layer.
    return next((size for size in reversed(p.shape) if size > 1), 1)


def _owners(model):
    """Name of each module in an attention, itself included but not its linears → (name, module)."""
    owners = {}
    for name, attention in model.named_modules():
        if is_attention(attention):
            for inner, _ in attention.named_modules():
                if inner not in ("qkv", "proj"):
                    owners[f"{name}.{inner}" if inner else name] = (name, attention)
    return owners


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
