"""Which parts of a model are its tensor core."""

import torch
from detectron2.structures import Boxes
from torch import nn

from blendprune.deployment.parts import PartFinder
from blendprune.pruning.graph.forwards import run_stages
from tests.helpers.small_net import SmallNet, small_inputs


def names_of(model, run, refused=()):
    names = {module: name for name, module in model.named_modules()}
    core = PartFinder(model, run)(refused)
    assert all(module in names for module in core.modules)
    return [(names[part.module], part.method) for part in core.parts]


def parts_of(model, images):
    return names_of(model, lambda: run_stages(model, images, training_branches=False))


def test_of_a_mask_rcnn_the_core_is_backbone_heads_and_the_layers_of_the_mask_head(zoo_model):
    assert parts_of(*zoo_model("mask-fpn")) == [
        ("backbone", "forward"),
        ("proposal_generator.rpn_head", "forward"),
        ("roi_heads.box_head", "forward"),
        ("roi_heads.box_predictor", "forward"),
        ("roi_heads.mask_head", "layers"),
    ]


def test_of_a_panoptic_fpn_the_semantic_head_is_a_part(zoo_model):
    assert ("sem_seg_head", "forward") in parts_of(*zoo_model("panoptic"))


def test_of_a_retinanet_the_core_is_backbone_and_head(zoo_model):
    assert parts_of(*zoo_model("retinanet")) == [("backbone", "forward"), ("head", "forward")]


def test_of_a_blendmask_the_top_layer_runs_inside_the_head(blendmask):
    model, images = blendmask("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", False)
    expected = {"backbone", "proposal_generator.fcos_head", "basis_module"}
    assert {name for name, _ in parts_of(model, images)} == expected
    core = PartFinder(model, lambda: model(images))()
    assert model.top_layer in core.modules and model.blender not in core.modules


class Part(nn.Module):
    """Takes a tensor, or boxes; says which of its convs runs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(x if isinstance(x, torch.Tensor) else x.tensor[None, :3, :3, None])


def test_a_module_that_takes_tensors_in_one_call_only_is_no_part():
    def run(net, x):
        return net.part(x), net.part(Boxes(torch.rand(3, 4)))

    net = SmallNet(lambda net, x: run(net, x), part=Part()).eval()
    assert names_of(net, lambda: net(small_inputs())) == [("part.conv", "forward")]


def test_the_parts_inside_a_refused_module_are_found():
    net = SmallNet(lambda net, x: net.part(x), part=Part()).eval()
    assert names_of(net, lambda: net(small_inputs())) == [("part", "forward")]
    found = names_of(net, lambda: net(small_inputs()), [net.part])
    assert found == [("part.conv", "forward")]


def test_modules_without_a_layer_are_no_parts():
    net = SmallNet(lambda net, x: net.relu(x), relu=nn.ReLU()).eval()
    assert names_of(net, lambda: net(small_inputs())) == []
