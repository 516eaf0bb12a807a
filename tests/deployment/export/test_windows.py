"""The blocks of a Swin, traced for any number of images."""

import copy

import torch
from detectron2.modeling import SwinTransformer
from detectron2.modeling.backbone import swin
from torch import nn

from blendprune.deployment.export.windows import trace_windows


class OneLevel(nn.Module):
    """The first level of a Swin: a block, and one whose windows are shifted."""

    def __init__(self):
        super().__init__()
        self.net = SwinTransformer(
            embed_dim=8, depths=[2], num_heads=[2], window_size=4, out_indices=(0,)
        )

    def forward(self, images):
        return self.net(images)["p0"]


def traced(model):
    """The model, traced with three images of 24 px, of which 8 fill a window."""
    shapes = ({0: torch.export.Dim("batch")},)
    images = torch.rand(3, 3, 24, 24)
    return torch.export.export(model, (images,), dynamic_shapes=shapes, strict=False).module()


def test_a_trace_takes_other_numbers_of_images():
    model = OneLevel().eval()
    images = torch.rand(5, 3, 24, 24)
    with torch.no_grad():
        wanted = model(images)
        found = traced(trace_windows(copy.deepcopy(model)))(images)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_upstream_and_the_model_that_was_copied_stay_as_they_are():
    model, before = OneLevel(), dict(vars(swin))
    trace_windows(copy.deepcopy(model))
    assert vars(swin) == before
    assert not any("forward" in vars(module) for module in model.modules())
