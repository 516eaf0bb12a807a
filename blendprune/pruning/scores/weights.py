"""Importances that read the weights alone; all but one are Torch-Pruning's."""

import torch_pruning as tp
from torch import nn

from ...errors import PruningError
from ..tracing.layer_kinds import is_fixed_norm
from .registry import IMPORTANCES, Importance


@IMPORTANCES.register()
def magnitude():
    """L2 norm of all weights of the group, over the group's mean (DepGraph, arXiv:2301.12900)."""
    return tp.importance.GroupMagnitudeImportance(p=2)


@IMPORTANCES.register()
def lamp():
    """Layer-adaptive magnitude (arXiv:2010.07611)."""
    return tp.importance.LAMPImportance()


@IMPORTANCES.register()
def fpgm():
    """Distance to the other filters (arXiv:1811.00250)."""
    return tp.importance.FPGMImportance()


@IMPORTANCES.register()
def random():
    """Uniformly random, from torch's global generator: the control of every comparison."""
    return tp.importance.RandomImportance()


class BNScale(Importance):
    """Size of the BatchNorm weights of the group (Network Slimming, arXiv:1708.06519)."""

    def __init__(self):
        self._scores = tp.importance.BNScaleImportance()

    def __call__(self, group):
        return self._scores(group.handle)

    def check(self, groups):
        """Refuse groups without a BatchNorm, or with one whose weights are constants."""
        frozen = [g for g in groups if any(map(is_fixed_norm, _batch_norms(g)))]
        if frozen:
            raise PruningError(
                f"importance 'bn_scale' found FrozenBN on the channels of {_names(frozen)}, whose "
                "weights are constants: train with NORM 'BN' and FREEZE_AT 0 first, or use "
                "importance='taylor' or 'magnitude'"
            )
        without = [g for g in groups if not _batch_norms(g)]
        if without:
            raise PruningError(
                f"importance 'bn_scale' found no BatchNorm on the channels of {_names(without)}: "
                "name them in ignored_layers, or use importance='taylor' or 'magnitude'"
            )


@IMPORTANCES.register()
def bn_scale():
    """Size of the BatchNorm weights: see :class:`BNScale`."""
    return BNScale()


def _batch_norms(group):
    return [layer for layer in group.layers if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def _names(groups):
    more = f" and of {len(groups) - 1} other groups" if groups[1:] else ""
    return groups[0].root + more
