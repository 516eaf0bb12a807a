"""Deformable convs where detectron2 is not compiled: put in place, reached, taken away."""

import pytest
import torch

import blendprune
from blendprune import overlay
from blendprune.modeling.operators import deform_conv as ours

NAMES = ("DeformConv", "ModulatedDeformConv")


@pytest.fixture
def dummies():
    """detectron2's dummies, without the overlay."""
    import detectron2.layers.deform_conv as upstream

    if hasattr(upstream, "_C"):
        pytest.skip("detectron2 is compiled here")
    return {name: getattr(upstream, name) for name in NAMES}


def places():
    import detectron2.layers
    import detectron2.layers.deform_conv
    import detectron2.modeling.backbone.resnet as resnet

    return detectron2.layers, detectron2.layers.deform_conv, resnet


def test_they_stand_wherever_the_dummies_stood_and_go_again(dummies):
    here = {name: getattr(ours, name) for name in NAMES}
    with blendprune.applied():
        for place in places():
            for name in NAMES:
                assert issubclass(getattr(place, name), here[name])
    for place in places():
        for name in NAMES:
            assert getattr(place, name) is dummies[name]
    assert {name: getattr(ours, name) for name in NAMES} == here


def test_a_resnet_with_deformable_blocks_trains(dummies, overlay):
    from detectron2.modeling.backbone.resnet import DeformBottleneckBlock

    for modulated in (False, True):
        block = DeformBottleneckBlock(8, 8, bottleneck_channels=8, deform_modulated=modulated)
        block(torch.rand(2, 8, 6, 6)).sum().backward()
        assert block.conv2.weight.grad.abs().sum() > 0
        assert block.conv2_offset.weight.grad is not None


def test_adelaidets_layer_reaches_them(dummies, adelaidet, overlay):
    from adet.layers import DFConv2d

    x = torch.rand(1, 8, 6, 6)
    for modulated in (False, True):
        layer = DFConv2d(8, 4, with_modulated_dcn=modulated)
        assert isinstance(layer.conv, getattr(ours, NAMES[modulated]))
        assert layer(x).shape == (1, 4, 6, 6)


def test_a_compiled_detectron2_is_left_alone(dummies, monkeypatch):
    import detectron2.layers.deform_conv as upstream

    monkeypatch.setattr(upstream, "_C", object(), raising=False)
    with blendprune.applied():
        assert {name: getattr(upstream, name) for name in NAMES} == dummies
        assert "provide-deformable-convs" not in {row.name for row in blendprune.status()}


def test_the_status_lists_the_patch(dummies):
    with blendprune.applied():
        overlay.import_targets()  # an AdelaiDet that is not compiled needs the overlay
        [row] = [row for row in blendprune.status() if row.name == "provide-deformable-convs"]
    assert row.state == "applied"
    assert row.target == "detectron2.layers.deform_conv: DeformConv, ModulatedDeformConv"
