"""Autograd operators: which of them leave the channels what they are."""

import re

# Autograd operators that act on every channel alone and leave the channel dimension where it is.
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


def is_channel_wise(grad_fn, channels):
    """Whether no channel of the output mixes channels of an input.

    Args:
        grad_fn (torch.autograd.graph.Node): the operator.
        channels (int): how many there are.
    """
    name = grad_fn.name()
    if name.startswith("CatBackward"):
        return True
    if _AXES.fullmatch(name):
        return channels in output_shape(grad_fn)
    if re.fullmatch(r"(Mean|Sum)Backward\d+", name):
        # Over all there is (as losses do), or over positions alone.
        dims = getattr(grad_fn, "_saved_dim", None)
        rank = len(grad_fn._saved_self_sym_sizes)
        return bool(dims) and all(_signed(dim) % rank != 1 for dim in dims)
    if re.fullmatch(r"StackBackward\d+", name):
        # A new dimension, behind the channels.
        return _signed(grad_fn._saved_dim) in (-3, -2, -1, 2, 3, 4)
    if re.fullmatch(r"Index(Put)?Backward\d+", name):
        # Indices of the first dimension: regions are put where their level of the pyramid was.
        return all(index is None for index in grad_fn._saved_indices[1:])
    return _CHANNEL_WISE.fullmatch(name) is not None


def output_shape(grad_fn):
    """Shape of what an operator gave."""
    return grad_fn._input_metadata[0].shape


def follows_constant(grad_fn):
    """Whether an input of a concatenation comes behind one that needs no gradient."""
    # Autograd does not know how wide such a part is, nor the graph where the next one begins.
    known = [source is not None for source, _ in grad_fn.next_functions]
    return grad_fn.name().startswith("CatBackward") and known != sorted(known, reverse=True)


def _signed(dim):
    # Autograd hands out negative dimensions as unsigned numbers.
    return dim - (1 << 64) if dim >= 1 << 63 else dim
