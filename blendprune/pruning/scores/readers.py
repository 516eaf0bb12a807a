"""The layers that read the channels of a group, and sums over what they read them with."""

import torch

from ..tracing.view import is_prunable_layer


def is_reader(item):
    """Whether a member of a group of Torch-Pruning is a layer that reads the channels."""
    reads = item.dep.handler.__name__ == "prune_in_channels"
    return reads and is_prunable_layer(item.dep.target.module)


def readers(group):
    """The layers that read the channels of a group.

    Args:
        group (tp.dependency.Group): with all channels.

    Returns:
        list[tuple[nn.Module, Tensor, Tensor]]: layer, its input channels, and for each of them the
        channel of the group that it stands for; the latter two int64 on the CPU, of equal length.
    """
    found = []
    for item in group:
        if is_reader(item):
            inputs, channels = torch.tensor(list(item.idxs)), torch.tensor(item.root_idxs)
            found.append((item.dep.target.module, inputs, channels))
    return found


def by_input(layer, amounts):
    """Sum something of the shape of a layer's weight over all but its input channels.

    Args:
        layer (nn.Module): a conv, grouped and transposed ones included, or a linear.
        amounts (Tensor): of the shape of ``layer.weight``.

    Returns:
        Tensor: (input channels,).
    """
    if getattr(layer, "transposed", False):
        return amounts.flatten(1).sum(1)
    groups = getattr(layer, "groups", 1)
    # (groups, out / groups, in / groups, kernel): inputs of the groups follow one another.
    amounts = amounts.reshape(groups, -1, amounts.shape[1], amounts[0, 0].numel())
    return amounts.sum((1, 3)).flatten()


def channel_effect(group):
    """First-order effect of each channel of a group on what the gradients are of.

    It is the gradient of a mask on the channel wherever it is read.

    Args:
        group (tp.dependency.Group): with all channels; gradients of the weights are set.

    Returns:
        Tensor: (width,), the sum of weight · gradient over all convs and linears that read the
        channel; those that no gradient reached count nothing.
    """
    weight = group[0].dep.target.module.weight
    effect = weight.new_zeros(len(group[0].idxs))
    for layer, inputs, channels in readers(group):
        if layer.weight.grad is not None:
            amounts = by_input(layer, layer.weight.detach() * layer.weight.grad)
            effect.index_add_(0, channels.to(effect.device), amounts[inputs.to(effect.device)])
    return effect
