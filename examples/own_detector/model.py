"""A made-up detector that blendprune does not know: the code that a user has already.

It finds the centres of objects on one feature map, and describes each of them by a head that runs
per instance. ``BentReLU`` is an operator of its own, ``ChannelScale`` has a weight per channel.
"""

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import nn
from torchvision.ops import roi_align

STRIDE, MAX_INSTANCES = 4, 20


class BentReLU(torch.autograd.Function):
    """x where it is positive, and a tenth of it elsewhere; every channel alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x > 0, x, 0.1 * x)

    @staticmethod
    def backward(ctx, grad):
        [x] = ctx.saved_tensors
        return torch.where(x > 0, grad, 0.1 * grad)


class ChannelScale(nn.Module):
    """Multiplies each channel by a weight."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x):
        return self.scale * x


class CentreDetector(nn.Module):
    """Heatmap of centres, box sizes, and a description of each instance.

    Args:
        classes (int): of objects.
        width (int): channels of the feature map.
    """

    def __init__(self, classes=3, width=32):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.scale = ChannelScale(width)
        self.body = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.tower = nn.Conv2d(width, width, 3, padding=1)
        self.heatmap = nn.Conv2d(width, classes, 1)
        self.size = nn.Conv2d(width, 2, 1)
        self.describe_conv = nn.Conv2d(width, width, 3, padding=1)
        self.describe_fc = nn.Linear(width * 9, 8)
        self.threshold = 0.9

    def features(self, batched_inputs):
        """Feature map (N, C, H / 4, W / 4) of a batch of images."""
        images = torch.stack([x["image"] for x in batched_inputs]) / 255 - 0.5
        x = self.scale(BentReLU.apply(self.norm(self.stem(images))))
        return BentReLU.apply(self.body(x))

    def predict(self, features):
        """Logits (N, classes, h, w) and box sizes (N, 2, h, w), in pixels."""
        x = BentReLU.apply(self.tower(features))
        return self.heatmap(x), F.softplus(self.size(x)) * STRIDE

    def describe(self, features, boxes):
        """Descriptions (instances, 8) of a list of boxes (n, 4), one per image."""
        regions = roi_align(features, boxes, 3, 1 / STRIDE)
        x = F.relu(self.describe_conv(regions))
        return self.describe_fc(x.flatten(1))

    def forward(self, batched_inputs):
        """detectron2's convention: losses in training mode, instances otherwise."""
        features = self.features(batched_inputs)
        logits, sizes = self.predict(features)
        if self.training:
            return self._losses(features, logits, sizes, batched_inputs)
        boxes = [self._boxes(*each) for each in zip(logits, sizes)]
        descriptions = self.describe(features, boxes).split([len(each) for each in boxes])
        return [
            {"instances": self._instances(*each)}
            for each in zip(batched_inputs, boxes, descriptions)
        ]

    def _boxes(self, logits, sizes):
        scores = logits.sigmoid().amax(0)
        y, x = (scores > self.threshold).nonzero()[:MAX_INSTANCES].T
        centre, size = torch.stack([x, y], 1) * STRIDE, sizes[:, y, x].T
        return torch.cat([centre - size / 2, centre + size / 2], 1)

    @staticmethod
    def _instances(inputs, boxes, descriptions):
        found = Instances(tuple(inputs["image"].shape[1:]))
        found.pred_boxes, found.descriptions = Boxes(boxes), descriptions
        return found

    def _losses(self, features, logits, sizes, batched_inputs):
        wanted, boxes = torch.zeros_like(logits), []
        for target, inputs in zip(wanted, batched_inputs):
            instances = inputs["instances"]
            boxes.append(instances.gt_boxes.tensor)
            x, y = (instances.gt_boxes.get_centers() / STRIDE).long().T
            target[instances.gt_classes, y, x] = 1
        return {
            "loss_heatmap": F.binary_cross_entropy_with_logits(logits, wanted),
            "loss_size": (sizes / 32 - 1).square().mean(),
            "loss_description": self.describe(features, boxes).square().mean(),
        }
