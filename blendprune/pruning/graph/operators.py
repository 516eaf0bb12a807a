"""What operators of autograd do with the channels of their inputs: one rule for each kind."""

import re
from typing import NamedTuple

import torch
from torch.nn import functional as F

from ..tracing.autograd import name_of
from ..tracing.channel_wise import is_registered
from .channel_classes import NO_CHANNEL
from .labels import Labels, along, combine, join_along, labelled, sizes, unknown, vector_along


class Operator(NamedTuple):
    """One node of the autograd graph.

    Attributes:
        node (torch.autograd.graph.Node): whose attributes tell how it was called.
        inputs (list[Labels | None]): one for each of ``node.next_functions``; None for a constant.
        shapes (list[tuple[int, ...]]): of its outputs.
        classes (ChannelClasses): where to join and to keep.
        chunks (bool): whether it is a ``torch.chunk``, whose parts follow the width.
    """

    node: object
    inputs: list
    shapes: list
    classes: object
    chunks: bool = False

    @property
    def name(self):
        return name_of(self.node)

    @property
    def shape(self):
        return self.shapes[0]

    @property
    def first(self):
        return next(each for each in self.inputs if each is not None)

    def dim(self, value, rank=None):
        """A saved dimension: autograd gives negative ones as unsigned numbers."""
        return _signed(value) % (rank or len(self.first.shape))

    def keep(self, labels, reason):
        self.classes.keep(labels.ids, f"{reason} {self.name}")

    def fix(self, labels, reason):
        """Keep channels, but not the elements of a parameter, whose dimensions may be any."""
        if not self.classes.is_loose(self.classes.classes(labels.ids)).all():
            self.keep(labels, reason)


def apply_rule(operator):
    """Labels of the outputs of an operator.

    Args:
        operator (Operator): the node, with the labels of its inputs.

    Returns:
        list[Labels]: one for each output. What the operator does to channels that cannot be
        followed is said by ``classes.keep``.
    """
    known = [each for each in operator.inputs if each is not None]
    if not known:
        return [None] * len(operator.shapes)
    if all(each.unknown for each in known):
        return [unknown(shape) for shape in operator.shapes]
    rule = _by_position if is_registered(operator.name) else _rule_of(operator.name)
    try:
        found = rule(operator)
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        # An operator of a later torch, or one called in a way that its rule does not know.
        found = _not_followed(operator)
    found = found if isinstance(found, list) else [found]
    rest = [unknown(shape) for shape in operator.shapes[len(found) :]]
    return [
        labels if labels.shape == sizes(shape) else unknown(shape)
        for labels, shape in zip(found + rest, operator.shapes)
    ]


def _rule_of(name):
    name = re.sub(r"Backward\w?\d*$", "", name)
    return next((rule for pattern, rule in _RULES if re.fullmatch(pattern, name)), _not_followed)


# Operators that hide what they run → what to do.
_HIDING = {"CheckpointFunctionBackward": "pass use_reentrant=False to torch.utils.checkpoint: "}


def _not_followed(operator):
    for labels in operator.inputs:
        if labels is not None and not labels.unknown:
            operator.keep(labels, f"{_HIDING.get(operator.name, '')}unknown operator")
    return [unknown(shape) for shape in operator.shapes]


def _elementwise(operator):
    found, *others = [each for each in operator.inputs if each is not None]
    for other in others:
        shape = torch.broadcast_shapes(found.shape, other.shape)
        found = combine(found, other, shape, operator.classes, operator.name)
    return Labels(found.ids.expand(sizes(operator.shape)), found.unknown)


def _by_position(operator):
    """The channels are dimension 1 and stay there, whatever happens to all other dimensions."""
    if all(each is None or each.shape == sizes(operator.shape) for each in operator.inputs):
        return _elementwise(operator)
    labels = operator.first
    if labels.unknown:
        return unknown(operator.shape)
    vector = vector_along(labels, 1, operator.classes)
    return along(vector, 1, operator.shape)


def _over_positions(operator):
    """A pooling, resizing or padding of the last dimensions."""
    labels = operator.first
    kept = len(labels.shape) - (2 if len(labels.shape) > 3 else 1)
    dims = [dim for dim in labels.varying if dim >= kept]
    return _broadcast(join_along(labels, dims, operator.classes), operator.shape)


def _broadcast(labels, shape):
    """The labels for a tensor of another size in dimensions along which they are the same."""
    ids = labels.ids
    for dim, size in enumerate(sizes(shape)):
        if ids.shape[dim] != size:
            if dim in labels.varying:
                raise ValueError("the sizes of channels differ")
            ids = ids.narrow(dim, 0, 1)
    return Labels(ids.expand(sizes(shape)))


def _view(operator):
    labels = operator.first
    found = labelled(labels.ids.reshape(sizes(operator.shape)))
    if len(found.varying) > len(labels.varying):
        operator.fix(labels, "its channels are split over dimensions by")
    return found


def _expand(operator):
    return Labels(operator.first.ids.expand(sizes(operator.shape)))


def _permute(operator):
    dims = [operator.dim(dim) for dim in operator.node._saved_dims]
    return Labels(operator.first.ids.permute(dims))


def _transpose(operator):
    node = operator.node
    dims = operator.dim(node._saved_dim0), operator.dim(node._saved_dim1)
    return Labels(operator.first.ids.transpose(*dims))


def _t(operator):
    return Labels(operator.first.ids.t())


def _slice(operator):
    node, labels = operator.node, operator.first
    dim = operator.dim(node._saved_dim)
    start, end = _signed(node._saved_start), _signed(node._saved_end)
    if dim in labels.varying and labels.shape[dim] != operator.shape[dim]:
        size = labels.shape[dim]
        before, _, behind = labels.ids.tensor_split([start, min(end, size)], dim)
        # Constants may go from beside the channels, if they are counted from their own side.
        steady = start >= 0 and (end < 0 or end >= size) and node._saved_step == 1
        if not steady or any((ids != NO_CHANNEL).any() for ids in (before, behind)):
            operator.fix(labels, "fixed channels are taken out by")
    at = [slice(None)] * dim + [slice(start, end, node._saved_step)]
    return labelled(labels.ids[tuple(at)])


def _select(operator):
    node, labels = operator.node, operator.first
    dim = operator.dim(node._saved_dim)
    if dim in labels.varying:
        operator.fix(labels, "fixed channels are taken out by")
    return labelled(labels.ids.select(dim, _signed(node._saved_index)))


def _split(operator):
    labels = operator.first
    dim = operator.dim(operator.node._saved_dim)
    parts = [shape[dim] for shape in operator.shapes]
    if dim in labels.varying:
        if operator.chunks and len(set(parts)) == 1:
            vector = vector_along(labels, dim, operator.classes)
            operator.classes.divide(vector.view(len(parts), -1))
        else:
            operator.fix(labels, "split into parts of fixed widths by")
    return [labelled(part) for part in labels.ids.split(parts, dim)]


def _unbind(operator):
    labels = operator.first
    dim = operator.dim(operator.node._saved_dim)
    if dim in labels.varying:
        operator.fix(labels, "fixed channels are taken out by")
    return [labelled(part) for part in labels.ids.unbind(dim)]


def _cat(operator):
    dim = operator.dim(operator.node._saved_dim)
    missing = [each is None for each in operator.inputs]
    size = operator.shape[dim] - sum(each.shape[dim] for each in operator.inputs if each)
    if sum(missing) > 1 and missing != sorted(missing):
        for labels in operator.inputs[missing.index(True) :]:
            if labels is not None:
                operator.classes.keep(labels.ids, "concatenated behind a constant")
        raise ValueError("the sizes of the constants are not known")
    shape = [*operator.shape]
    parts = [each.ids for each in operator.inputs if each is not None]
    if any(missing):
        shape[dim] = size
        parts.insert(missing.index(True), unknown(shape).ids)
    return labelled(torch.cat(parts, dim))


def _stack(operator):
    dim = operator.dim(operator.node._saved_dim, len(operator.shape))
    shape = [*operator.shape]
    del shape[dim]
    parts = [unknown(shape) if each is None else each for each in operator.inputs]
    return labelled(torch.stack([each.ids for each in parts], dim))


def _pad(operator):
    labels = operator.first
    pad = [_signed(number) for number in operator.node._saved_pad]
    shape = [*labels.shape]
    for place, (before, after) in enumerate(zip(pad[::2], pad[1::2])):
        dim = len(shape) - 1 - place
        if dim in labels.varying:
            if min(before, after) < 0:
                operator.fix(labels, "fixed channels are taken out by")
        else:
            shape[dim] += before + after
            pad[2 * place : 2 * place + 2] = 0, 0
    return labelled(F.pad(_broadcast(labels, shape).ids, pad, value=NO_CHANNEL))


def _repeat(operator):
    return labelled(operator.first.ids.repeat(*operator.node._saved_repeats))


def _flip(operator):
    return Labels(operator.first.ids.flip([operator.dim(d) for d in operator.node._saved_dims]))


def _roll(operator):
    labels, dims = operator.first, [operator.dim(dim) for dim in operator.node._saved_dims]
    return labels if not set(dims) & set(labels.varying) else _not_followed(operator)


def _index(operator):
    labels = operator.first
    at = [slice(None) if index is None else index.cpu() for index in operator.node._saved_indices]
    if any(not isinstance(index, slice) and dim in labels.varying for dim, index in enumerate(at)):
        operator.fix(labels, "fixed channels are taken out by")
    return labelled(labels.ids[tuple(at)])


def _index_put(operator):
    """Some rows of a tensor: regions go back to the pyramid level that they came from."""
    known = [each for each in operator.inputs if each is not None]
    if any(index is not None for index in operator.node._saved_indices[1:]):
        return _not_followed(operator)
    found = None
    for labels in known:
        # The values of a single row come without a dimension for rows.
        missing = len(operator.shape) - len(labels.shape)
        labels = Labels(labels.ids[(None,) * missing], labels.unknown)
        labels = join_along(labels, [0], operator.classes)
        labels = Labels(labels.ids.narrow(0, 0, 1), labels.unknown)
        if found is not None:
            labels = combine(found, labels, found.shape, operator.classes, operator.name)
        found = labels
    return Labels(found.ids.expand(sizes(operator.shape)), found.unknown)


def _in_place(operator):
    """An operator that wrote into a view; which part of its base that is cannot be known."""
    shapes = {each.shape for each in operator.inputs if each is not None}
    return _elementwise(operator) if shapes == {sizes(operator.shape)} else _not_followed(operator)


def _reduce(operator):
    labels, node = operator.first, operator.node
    dims = getattr(node, "_saved_dim", None)
    if dims is None:
        dims = range(len(labels.shape))
    dims = [operator.dim(dim) for dim in ([dims] if isinstance(dims, int) else dims)]
    dims = dims or list(range(len(labels.shape)))
    varying = [dim for dim in dims if dim in labels.varying]
    if varying == labels.varying and varying:
        operator.keep(labels, "unknown operator")
        return [unknown(shape) for shape in operator.shapes]
    labels = join_along(labels, varying, operator.classes)
    ids = labels.ids
    for dim in sorted(dims, reverse=True):
        ids = ids.narrow(dim, 0, 1)
        if len(operator.shape) < len(labels.shape):
            ids = ids.squeeze(dim)
    return [Labels(ids)] * len(operator.shapes)


def _softmax(operator):
    labels = operator.first
    dim = operator.dim(operator.node._saved_dim)
    if dim not in labels.varying:
        return labels
    if labels.varying == [dim]:
        return _not_followed(operator)
    join_along(labels, [dim], operator.classes)
    return labels


def _shuffle_pixels(operator):
    scale = operator.node._saved_upscale_factor
    return labelled(F.pixel_shuffle(operator.first.ids.contiguous(), scale))


def _unshuffle_pixels(operator):
    scale = operator.node._saved_downscale_factor
    return labelled(F.pixel_unshuffle(operator.first.ids.contiguous(), scale))


def _signed(number):
    return number - (1 << 64) if number >= 1 << 63 else number


# Patterns of the names of nodes, without "Backward0".
_RULES = (
    (
        "Add|Sub|Rsub|Mul|Div|Neg|Pow|Exp|Log|Log1P|Sqrt|Rsqrt|Abs|Square|Reciprocal|Sign|Erf"
        "|Sigmoid|LogSigmoid|Relu|Threshold|LeakyRelu|Elu|Gelu|Silu|Tanh|Softplus|Hardtanh"
        "|Hardswish|Hardsigmoid|Mish|Clamp|ClampMin|ClampMax|Minimum|Maximum|Where|MaskedFill"
        "|Clone|Alias|ToCopy|NativeDropout|Addcmul|Addcdiv|Lerp|PreluKernel",
        _elementwise,
    ),
    (
        r"Upsample\w+|MaxPool\w+|AvgPool\w+|AdaptiveAvgPool\w+|AdaptiveMaxPool\w+"
        r"|ReflectionPad\w+|ReplicationPad\w+",
        _over_positions,
    ),
    (
        r"GridSampler2D|GeneratedBackwardFor_torchvision_roi_align_default|.*ROIAlignFunction>|"
        r"_BezierAlign",
        _by_position,
    ),
    (r"View|UnsafeView|ReshapeAlias|Squeeze|Unsqueeze", _view),
    ("Expand", _expand),
    ("Permute", _permute),
    ("Transpose|Swapaxes|Swapdims", _transpose),
    ("T", _t),
    ("Slice", _slice),
    ("Select", _select),
    ("Split|SplitWithSizes|UnsafeSplit|UnsafeSplitWithSizes", _split),
    ("Unbind", _unbind),
    ("Cat", _cat),
    ("Stack", _stack),
    ("ConstantPadNd", _pad),
    ("Repeat", _repeat),
    ("Flip", _flip),
    ("Roll", _roll),
    ("Index", _index),
    ("IndexPut", _index_put),
    (".*CopySlices", _in_place),
    ("Mean|Sum|Amax|Amin|Max|Min|LinalgVectorNorm|Norm|Logsumexp|Var|Std|Prod", _reduce),
    ("Softmax|LogSoftmax", _softmax),
    ("PixelShuffle", _shuffle_pixels),
    ("PixelUnshuffle", _unshuffle_pixels),
)
