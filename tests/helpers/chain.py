"""A detector's shape in three convs, small enough to compute its costs by hand."""

import torch
from torch import nn

SIDE = 8
PIXELS = SIDE * SIDE


class Chain(nn.Module):
    """Two 3x3 convs and a predictor; takes detectron2's inputs, and gives a loss in training."""

    def __init__(self, first=60, second=60):
        super().__init__()
        self.first = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.second = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.predictor = nn.Conv2d(second, 2, 1, bias=False)

    def forward(self, batched_inputs):
        x = torch.stack([each["image"] for each in batched_inputs])
        x = self.predictor(self.second(self.first(x).relu()).relu())
        return {"loss": x.square().mean()} if self.training else x


def chain_inputs(seed=0):
    """One image for a :class:`Chain`."""
    random = torch.Generator().manual_seed(seed)
    return [{"image": torch.rand(3, SIDE, SIDE, generator=random)}]


def chain_costs(first, second):
    """FLOPs, parameters and activations of a :class:`Chain`, by unit."""
    params = 9 * 3 * first + 9 * first * second + 2 * second
    activations = PIXELS * (first + second + 2)
    return {"flops": PIXELS * params, "params": params, "activations": activations}


def chain_memory(first, second):
    """Bytes of a :class:`Chain` that are alive at its peak: the image and two maps."""
    return 4 * PIXELS * (3 + 2 * max(first, second))
