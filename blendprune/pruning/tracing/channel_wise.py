"""Which operators of autograd leave every channel what it is."""

import re

import torch

from ...errors import ConfigError
from .autograd import output_shape

# Operators that act on every channel alone and leave the channel dimension where it is.
_CHANNEL_WISE = re.compile(
    r"(Add|Sub|Rsub|Mul|Div|Neg|Pow|Exp|Log|Sqrt|Rsqrt|Abs|Square|Sigmoid|Relu|LeakyRelu|Elu|Gelu"
    r"|Silu|Tanh|Softplus|Hardtanh|Hardswish|Hardsigmoid|Mish|Clamp|ClampMin|ClampMax|Clone|Alias"
    r"|ToCopy|NativeDropout|Upsample\w+2D|MaxPool2DWithIndices|AvgPool2D|AdaptiveAvgPool2D"
    r"|AdaptiveMaxPool2D|ReflectionPad2D|ReplicationPad2D"
    # The transposed weight of a linear, and features pooled from regions.
    r"|T|GridSampler2D|GeneratedBackwardFor_torchvision_roi_align_default|_BezierAlign)(Backward\d*)?"
)
# Operators that move dimensions, or drop some: fine as long as the channels remain one of them.
_AXES = re.compile(r"(Permute|Transpose|Squeeze|Unsqueeze|Select)Backward\d*")

_registered = set()


def register_channel_wise(operator):
    """Say that an operator treats every channel alone: its channels may be pruned.

    Channels are dimension 1. Channel c of the output depends on channel c of the inputs only.

    Args:
        operator (str | type): the name of a node of the autograd graph (``"MyScaleBackward"``, as
            ``tensor.grad_fn.name()`` gives it and as the reason ``unknown operator …`` names it),
            or a subclass of ``torch.autograd.Function``.

    Returns:
        str | type: ``operator``, so that it works as a decorator.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(operator, str):
        _registered.add(operator)
    elif isinstance(operator, type) and issubclass(operator, torch.autograd.Function):
        _registered.add(f"{operator.__name__}Backward")
    else:
        raise ConfigError(
            f"register_channel_wise got {operator!r}: pass a torch.autograd.Function or the name "
            "of an autograd node, for example 'MyScaleBackward'."
        )
    return operator


def is_channel_wise(grad_fn, channels):
    """Whether no channel of the output mixes channels of an input.

    Args:
        grad_fn (torch.autograd.graph.Node): the operator.
        channels (int): how many there are.
    """
    name = grad_fn.name()
    if name in _registered or name.startswith("CatBackward"):
        return True
    if _AXES.fullmatch(name):
        return channels in output_shape(grad_fn)
    if re.fullmatch(r"(Mean|Sum)Backward\d+", name):
        # Over everything (as losses do), or over positions alone.
        dims = getattr(grad_fn, "_saved_dim", None)
        rank = len(grad_fn._saved_self_sym_sizes)
        return bool(dims) and all(_signed(dim) % rank != 1 for dim in dims)
    if re.fullmatch(r"StackBackward\d+", name):
        # A new dimension behind the channels.
        return _signed(grad_fn._saved_dim) in (-3, -2, -1, 2, 3, 4)
    if re.fullmatch(r"Index(Put)?Backward\d+", name):
        # Indices of the first dimension: regions go back to the pyramid level that they came from.
        return all(index is None for index in grad_fn._saved_indices[1:])
    return _CHANNEL_WISE.fullmatch(name) is not None


def follows_constant(grad_fn):
    """Whether a concatenation has an input behind a part that needs no gradient.

    Autograd does not know the width of such a part, nor does the graph know where the next begins.
    """
    known = [source is not None for source, _ in grad_fn.next_functions]
    return grad_fn.name().startswith("CatBackward") and known != sorted(known, reverse=True)


def _signed(dim):
    # Autograd gives negative dimensions as unsigned numbers.
    return dim - (1 << 64) if dim >= 1 << 63 else dim
