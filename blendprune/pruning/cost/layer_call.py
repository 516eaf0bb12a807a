"""One call of a layer: what its time depends on, and how to repeat it at other widths."""

from dataclasses import dataclass

import torch
from torch import nn

from ..tracing.layer_kinds import (
    input_width,
    is_channels_first_norm,
    is_deformable,
    is_depthwise,
    is_naive_group_norm,
    is_norm,
    is_prunable_layer,
    output_width,
)

_CONVS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_SETTINGS = ("kernel_size", "stride", "padding", "dilation", "output_padding")


@dataclass(frozen=True)
class LayerCall:
    """A layer with the shape of its input.

    A deformable conv counts as a plain one. Batch norms of all kinds count as BatchNorm.

    Attributes:
        kind (type): of ``torch.nn``, that can repeat the call.
        width_in (int), width_out (int): channels.
        shape (tuple[int]): of the input, without its channels.
        unit (int): widths are multiples of it.
        settings (tuple): pairs of an argument of the kind and its value.
    """

    kind: type
    width_in: int
    width_out: int
    shape: tuple
    unit: int = 1
    settings: tuple = ()

    @staticmethod
    def is_known(module):
        """Whether the calls of a module can be repeated."""
        return is_prunable_layer(module) or is_norm(module)

    @classmethod
    def of(cls, module, inputs):
        """The call of a module.

        Args:
            module (nn.Module): one that :meth:`is_known`.
            inputs (tuple): what it is called with.

        Returns:
            LayerCall | None: None for an empty input, or one that is no tensor.
        """
        x = inputs[0] if inputs else None
        if not isinstance(x, torch.Tensor) or not x.numel():
            return None
        if is_norm(module):
            return cls._of_norm(module, tuple(x.shape))
        width_in, width_out = input_width(module), output_width(module)
        if isinstance(module, nn.Linear):
            shape = (x.numel() // width_in,)
            return cls(nn.Linear, width_in, width_out, shape, 1, (("bias", True),))
        plain = nn.Conv2d if is_deformable(module) else None
        kind = next((each for each in _CONVS if isinstance(module, each)), plain)
        if kind is None or x.dim() != len(module.kernel_size) + 2:
            return None
        settings = {key: getattr(module, key) for key in _SETTINGS if hasattr(module, key)}
        if "Transpose" not in kind.__name__:
            settings.pop("output_padding", None)
        settings["bias"] = getattr(module, "bias", None) is not None
        depthwise = is_depthwise(module)
        if not depthwise:
            settings["groups"] = module.groups
        shape = (x.shape[0], *x.shape[2:])
        unit = 1 if depthwise else module.groups
        return cls(kind, width_in, width_out, shape, unit, tuple(sorted(settings.items())))

    @classmethod
    def _of_norm(cls, module, shape):
        if isinstance(module, nn.LayerNorm):
            return cls(nn.LayerNorm, 1, shape[-1], shape[:-1])
        if len(shape) != 4:
            return None
        rest = (shape[0], *shape[2:])
        if is_channels_first_norm(module):
            return cls(nn.GroupNorm, 1, shape[1], rest, 1, (("num_groups", 1),))
        if isinstance(module, nn.GroupNorm) or is_naive_group_norm(module):
            groups = module.num_groups
            return cls(nn.GroupNorm, 1, shape[1], rest, groups, (("num_groups", groups),))
        return cls(nn.BatchNorm2d, 1, shape[1], rest)

    @property
    def has_two_widths(self):
        """Whether inputs and outputs vary apart, as not in norms and depthwise convs."""
        return self.kind is nn.Linear or "groups" in dict(self.settings)

    @property
    def key(self):
        """What the time depends on besides the widths, as text."""
        settings = ", ".join(f"{name}={value}" for name, value in self.settings)
        return f"{self.kind.__name__}({settings}) on {self.shape}"

    def build(self, width_in, width_out, device):
        """The layer at other widths, with random weights.

        Args:
            width_in (int), width_out (int): multiples of :attr:`unit`.
            device (torch.device): of both.

        Returns:
            tuple[nn.Module, Tensor]: in eval mode, and random numbers for it.
        """
        settings = dict(self.settings)
        if not self.has_two_widths:
            width_in = width_out
        if self.kind in (nn.BatchNorm2d, nn.LayerNorm):
            layer = self.kind(width_out)
        elif self.kind is nn.GroupNorm:
            layer = nn.GroupNorm(num_channels=width_out, **settings)
        else:
            if not self.has_two_widths:
                settings["groups"] = width_out
            layer = self.kind(width_in, width_out, **settings)
        last = self.kind in (nn.Linear, nn.LayerNorm)
        rows, *rest = self.shape
        shape = (rows, *rest, width_in) if last else (rows, width_in, *rest)
        x = torch.randn(shape, device=device)
        return layer.to(device).eval().requires_grad_(False), x
