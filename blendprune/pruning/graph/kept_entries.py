"""Which entries of each parameter pruning keeps, for tensors that must follow the parameters."""

import copy

import torch
from torch import nn


class KeptEntries:
    """Follows pruning: the same slices are taken from copies of the layers that hold entry numbers.

    Torch-Pruning's own functions decide for every kind of layer. What they keep can then be taken
    from any tensor of a parameter's shape, such as the momentum of an optimizer.
    """

    def __init__(self):
        self._shadows = {}

    def follow(self, group):
        """Take from the copies what a group is about to lose.

        Args:
            group (tp.dependency.Group): of the channels to remove, before its ``prune()``.
        """
        for dep, indices in group:
            module = dep.target.module
            if not isinstance(module, nn.Module) or not module._parameters:
                continue
            if module not in self._shadows:
                self._shadows[module] = _shadow(module)
            follower = copy.copy(dep)
            follower.target = copy.copy(dep.target)
            follower.target.module = self._shadows[module]
            follower(indices)

    def entries(self, module, name):
        """Where the entries of a parameter were before pruning.

        Args:
            module (nn.Module): the layer.
            name (str): of its parameter.

        Returns:
            Tensor | None: int64 of the parameter's shape, positions in the flattened former
            parameter; None if nothing was removed from it, or if it is computed from a weight
            that was pruned (weight norm).
        """
        shadow = self._shadows.get(module)
        found = None if shadow is None else shadow._parameters.get(name)
        return None if found is None else found.detach().long()


def _shadow(module):
    shadow = copy.copy(module)
    # Torch-Pruning makes Parameters, which cannot be integers; float64 is exact up to 2^53.
    shadow._parameters = {
        name: None
        if p is None
        else nn.Parameter(
            torch.arange(p.numel(), dtype=torch.float64, device=p.device).view(p.shape)
        )
        for name, p in module._parameters.items()
    }
    shadow._buffers = dict(module._buffers)
    return shadow
