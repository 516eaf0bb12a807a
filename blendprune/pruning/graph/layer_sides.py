"""Sides of layers: which of their inputs or outputs the channels of a group are."""

from dataclasses import dataclass

import torch
from torch import nn

from ..tracing.layer_kinds import is_norm, is_prunable_layer


@dataclass(frozen=True)
class LayerSide:
    """The inputs or outputs of a layer that change with a group.

    Attributes:
        layer (nn.Module): a conv, a linear or a norm.
        reads (bool): whether they are inputs of a conv or linear; else outputs, or entries of a
            norm.
        entries (Tensor): int64 on the CPU, numbers of these inputs or outputs.
        channels (Tensor): likewise, for each entry the channel of the group that it stands for.
    """

    layer: nn.Module
    reads: bool
    entries: torch.Tensor
    channels: torch.Tensor

    def entries_of(self, channels):
        """The entries that stand for some channels of the group.

        Args:
            channels (Tensor): of the group.

        Returns:
            Tensor: int64 on the CPU.
        """
        return self.entries[torch.isin(self.channels, channels.cpu())]


def sides_of(torch_pruning_group):
    """The layers of a group of Torch-Pruning, one entry per side.

    Args:
        torch_pruning_group (tp.dependency.Group): with all channels.

    Returns:
        list[LayerSide]: in the order of the group.
    """
    found = []
    for item in torch_pruning_group:
        layer = item.dep.target.module
        # The other items are parameters and operators.
        if isinstance(layer, nn.Module) and (is_prunable_layer(layer) or is_norm(layer)):
            reads = item.dep.handler.__name__ == "prune_in_channels" and is_prunable_layer(layer)
            entries, channels = torch.tensor(list(item.idxs)), torch.tensor(item.root_idxs)
            found.append(LayerSide(layer, reads, entries, channels))
    return found


def sum_by_input(layer, amounts):
    """Sum amounts of the shape of a layer's weight over everything but its input channels.

    Args:
        layer (nn.Module): a linear or a conv, also grouped or transposed.
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
