"""Models of a few layers whose forward is a function; they take detectron2's inputs."""

import torch
from torch import nn


class SmallNet(nn.Module):
    """A model of layers given by name.

    Args:
        run (Callable): called with the model and a batch of images (N, 3, 8, 8); gives the output.
        layers (nn.Module | nn.Parameter): by name.
    """

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, batched_inputs):
        return self.run(self, torch.stack([each["image"] for each in batched_inputs]))


def small_inputs():
    """One image for a :class:`SmallNet`."""
    return [{"image": torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))}]


def residual():
    """Two convs, one with a norm, added in front of a predictor."""
    return SmallNet(
        lambda net, x: net.p(net.a(x) + net.norm(net.b(x))),
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(3, 8, 1),
        norm=nn.BatchNorm2d(8),
        p=nn.Conv2d(8, 2, 1),
    ).eval()
