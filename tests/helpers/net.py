"""A small model with every kind of layer."""

import torch
from torch import nn


class Net(nn.Module):
    """Small, with every kind of layer whose width a structure holds."""

    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)
        self.norm = nn.BatchNorm2d(width)
        self.group_norm = nn.GroupNorm(width // 4, width)
        self.up = nn.ConvTranspose2d(width, 2 * width, 2)
        self.fc = nn.Linear(2 * width, 4)
        self.scale = nn.Parameter(torch.ones(width))
        self.tied = nn.Linear(2 * width, 4)
        self.tied.weight = self.fc.weight
