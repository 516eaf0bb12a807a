"""A block as users write it: upstream's ``BasicBlock`` with a forward of its own."""

import torch.nn.functional as F
from detectron2.modeling.backbone.resnet import BasicBlock
from torch import nn


class SEBasicBlock(BasicBlock):
    """Squeeze and excitation (arXiv:1709.01507); the convs run their norms, as upstream's do."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        channels, hidden = self.out_channels, self.out_channels // 4
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        out = F.relu_(self.conv1(x))
        out = self.conv2(out)
        out = out * self.se(out)
        return F.relu_(out + (x if self.shortcut is None else self.shortcut(x)))
