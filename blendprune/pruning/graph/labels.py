"""Labels: for every element of a tensor the id of the channel that it belongs to."""

from typing import NamedTuple

import numpy as np
import torch

from .channel_classes import NO_CHANNEL


class Labels(NamedTuple):
    """Ids of the elements of a tensor.

    Attributes:
        ids (Tensor): int64, of the shape of the tensor, with stride 0 along each dimension in which
            the ids are all the same. Empty dimensions count as one element.
        unknown (bool): whether no element's channel is known.
    """

    ids: torch.Tensor
    unknown: bool = False

    @property
    def shape(self):
        return self.ids.shape

    @property
    def varying(self):
        """The dimensions (list[int]) along which the ids differ."""
        sizes = zip(self.ids.shape, self.ids.stride())
        return [dim for dim, (size, stride) in enumerate(sizes) if size > 1 and stride]


def along(vector, dim, shape):
    """Labels that differ along one dimension.

    Args:
        vector (Tensor): (channels,) ids.
        dim (int): which dimension.
        shape (Sequence[int]): of the tensor.
    """
    shape = sizes(shape)
    view = [1] * len(shape)
    view[dim] = -1
    return Labels(vector.view(view).expand(shape))


def unknown(shape):
    """Labels of a tensor whose channels are not known."""
    return Labels(torch.full((), NO_CHANNEL).expand(sizes(shape)), True)


def labelled(ids):
    """Labels of a tensor of ids; dimensions along which they are the same get stride 0."""
    for dim in Labels(ids).varying:
        first = ids.narrow(dim, 0, 1)
        if bool((ids == first).all()):
            ids = first.expand(ids.shape)
    return Labels(ids)


def sizes(shape):
    """A shape as a tuple in which no dimension is empty."""
    return tuple(max(1, int(size)) for size in shape)


def vector_along(labels, dim, classes):
    """The ids along one dimension; what differs along any other is joined.

    Args:
        labels (Labels): of a tensor.
        dim (int): the dimension.
        classes (ChannelClasses): where to join.

    Returns:
        Tensor: (size of the dimension,) ids.
    """
    dim %= len(labels.shape)
    first = labels.ids
    for other in labels.varying:
        if other != dim:
            first = first.narrow(other, 0, 1)
    if first.shape != labels.shape:
        join(Labels(labels.ids), Labels(first.expand(labels.shape)), classes)
    return first.movedim(dim, 0).reshape(labels.shape[dim], -1)[:, 0]


def join_along(labels, dims, classes):
    """Join all ids along dimensions; labels with the first of them there."""
    ids = labels.ids
    for dim in dims:
        if dim in labels.varying:
            ids = ids.narrow(dim, 0, 1).expand(labels.shape)
    join(labels, Labels(ids), classes)
    return Labels(ids, labels.unknown)


def join(one, other, classes):
    """Join the ids of each element of two tensors of the same shape."""
    dims = set(one.varying) | set(other.varying)
    at = tuple(slice(None) if dim in dims else 0 for dim in range(len(one.shape)))
    classes.join(one.ids[at].numpy(), other.ids[at].numpy())


def combine(one, other, shape, classes, operator):
    """Labels of what an operator makes element by element of two tensors.

    Elements that meet belong together. An element that meets several channels (a gate of one
    channel, a weight of a whole input) is read by all of them, and stays.

    Args:
        one (Labels), other (Labels): of the operands.
        shape (Sequence[int]): of the result, to which both are broadcast.
        classes (ChannelClasses): where to join and to keep.
        operator (str): name, for reasons.
    """
    shape = sizes(shape)
    if one.unknown or other.unknown:
        return _with_unknown(one, other, shape, classes, operator)
    one, other = Labels(one.ids.expand(shape)), Labels(other.ids.expand(shape))
    dims = set(one.varying) | set(other.varying)
    at = tuple(slice(None) if dim in dims else 0 for dim in range(len(shape)))
    pairs = np.stack([classes.channels(each.ids[at].numpy()).ravel() for each in (one, other)])
    pairs = np.unique(pairs, axis=1)
    a, b = pairs
    # How many channels of the other operand a channel meets.
    meets_a, meets_b = _counts(a), _counts(b)
    loose_a, loose_b = (classes.is_loose(classes.classes(side)) for side in pairs)
    # Elements of a parameter may be many for a channel; channels may not.
    fits = (meets_a == 1) & ((meets_b == 1) | loose_a)
    fits |= (meets_b == 1) & ((meets_a == 1) | loose_b)
    fits &= (a != NO_CHANNEL) & (b != NO_CHANNEL)
    classes.join(a[fits], b[fits])
    # All others are read by several channels, or have no channel. Channels may meet any elements.
    reason = f"other channels read it, too ({operator})"
    for side, meets, free, known in (
        (a, meets_a, loose_b & ~loose_a, b),
        (b, meets_b, loose_a & ~loose_b, a),
    ):
        classes.keep(side[~fits & ((meets > 1) & ~free | (known == NO_CHANNEL))], reason)
    rest = ~fits & (a != b)
    takes_other = loose_a[rest].any() and not loose_b[rest].any()
    if not takes_other and loose_b[rest].any() == loose_a[rest].any():
        takes_other = bool((meets_a[rest] > 1).any()) and not (meets_b[rest] > 1).any()
    if not rest.any():
        takes_other = len(one.varying) > len(other.varying)
    return other if takes_other else one


def _counts(values):
    """How often each value occurs, for each place."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[places]


def _with_unknown(one, other, shape, classes, operator):
    if one.unknown and other.unknown:
        return unknown(shape)
    known, strange = (other, one) if one.unknown else (one, other)
    own = (1,) * (len(shape) - len(strange.shape)) + tuple(strange.shape)
    found = Labels(known.ids.expand(shape))
    if any(own[dim] > 1 for dim in found.varying):
        classes.keep(found.ids, f"meets channels that cannot be followed ({operator})")
    return found
