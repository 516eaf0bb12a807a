"""Kinds of layers: which modules have channels of their own, and which follow those of others."""

from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

_FROZEN_NORMS = (FrozenBatchNorm2d, TorchvisionFrozenBatchNorm2d)


def is_prunable_layer(module):
    """Whether the module has an output width that is its own to choose (a conv or a linear)."""
    return isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) or is_deformable(module)


def input_width(layer):
    """Number of inputs of a conv or a linear."""
    return getattr(layer, "in_channels", None) or layer.in_features


def output_width(layer):
    """Number of outputs of a conv or a linear."""
    return getattr(layer, "out_channels", None) or layer.out_features


def is_depthwise(module):
    """Whether the module is a conv that gives each input channel outputs of its own."""
    groups = getattr(module, "groups", 1)
    return groups > 1 and groups == module.out_channels


def is_norm(module):
    """Whether the module normalises channels, and so follows the width of its input."""
    known = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, *_FROZEN_NORMS)
    return (
        isinstance(module, known) or is_naive_group_norm(module) or is_channels_first_norm(module)
    )


def is_fixed_norm(module):
    """Whether the module is a FrozenBatchNorm2d, inside the prunable view or outside.

    detectron2's and torchvision's are alike.
    """
    return isinstance(module, _FROZEN_NORMS) or getattr(module, "has_fixed_weights", False)


def is_deformable(module):
    """Whether the module is a deformable conv of detectron2, compiled or not."""
    return is_called(module, "DeformConv", "ModulatedDeformConv")


def is_naive_group_norm(module):
    """Whether the module is AdelaiDet's NaiveGroupNorm, several operators instead of one."""
    return is_called(module, "NaiveGroupNorm")


def is_channels_first_norm(module):
    """Whether the module is detectron2's LayerNorm over the channels of (N, C, H, W)."""
    return is_called(module, "LayerNorm") and not isinstance(module, nn.LayerNorm)


def is_dynamic_head(module):
    """Whether the module is a head without weights of its own (implicit PointRend)."""
    return is_called(module, "ImplicitPointHead")


def tied_modules(names):
    """Find the modules that share a parameter, which must stay one parameter.

    Args:
        names (dict[nn.Module, str]): all modules of a model.

    Returns:
        dict[nn.Module, str]: each module that shares → the name of another one that it shares with.
    """
    holders, tied = {}, {}
    for module in names:
        for parameter in module._parameters.values():
            if parameter is not None:
                holders.setdefault(parameter, []).append(module)
    for sharing in holders.values():
        for module in sharing[1:]:
            tied[module], tied[sharing[0]] = names[sharing[0]], names[sharing[1]]
    return tied


def is_called(module, *names):
    """Whether a class of the module has one of these names.

    By name: AdelaiDet need not be installed, nor detectron2 compiled.
    """
    return any(cls.__name__ in names for cls in type(module).__mro__)
