"""Half precision: in the core only, float32 outside, and no overflow that goes unnoticed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blendprune
from blendprune.errors import DeployError
from tests.helpers.deployed import predictions_of_both, relative_difference
from tests.helpers.sentences import assert_sentence
from tests.helpers.small_net import SmallNet, small_inputs
from tests.zoo import tensors_of

TOLERANCES = {torch.float16: 5e-3, torch.bfloat16: 5e-2}


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_core_in_half_precision_predicts_nearly_the_same(overlay, zoo_model, dtype):
    model, images = zoo_model("box-fpn-r18")
    deployed = overlay.deploy(model, dtype=dtype)
    assert all(p.dtype == dtype for p in deployed.parameters())
    for pairs in predictions_of_both(model, deployed, images).values():
        for ours, theirs in pairs:
            assert theirs.dtype == dtype
            assert relative_difference(ours, theirs.float()) < TOLERANCES[dtype]
    found = [x for x in tensors_of(deployed(images)) if x.is_floating_point()]
    assert found and all(x.dtype == torch.float32 for x in found)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_blendmask_in_half_precision_keeps_float32_outside_its_core(registered, blendmask, dtype):
    model, images = blendmask("MODEL.FCOS.NORM", "BN")
    deployed = registered.deploy(model, dtype=dtype)
    parts = (deployed.backbone, deployed.proposal_generator.fcos_head, deployed.top_layer)
    weights = [layer.weight for part in parts for layer in part.modules() if is_conv(layer)]
    assert weights and all(weight.dtype == dtype for weight in weights)
    # Their statistics may exceed half precision.
    norms = deployed.proposal_generator.fcos_head.modules()
    norms = [norm for norm in norms if isinstance(norm, nn.BatchNorm2d)]
    assert norms and all(norm.running_var.dtype == torch.float32 for norm in norms)
    for part in parts[:2]:
        maps = []
        part.register_forward_hook(lambda part, inputs, output, maps=maps: maps.append(output))
        deployed(images)
        assert all(x.dtype == torch.float32 for x in tensors_of(maps))


def is_conv(layer):
    return isinstance(layer, nn.Conv2d)


def test_what_is_made_in_float32_inside_the_core_is_converted():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            row = torch.linspace(-1, 1, x.shape[-1]).expand_as(x[:, :1])
            return self.last(self.conv(torch.cat([x, row], 1)).relu())

    net = SmallNet(lambda net, x: net.head(x), head=Head()).eval()
    deployed = blendprune.deploy(net, small_inputs(), dtype=torch.bfloat16)
    assert deployed.head.conv.weight.dtype == torch.bfloat16
    expected, found = net(small_inputs()), deployed(small_inputs())
    assert found.dtype == torch.float32
    assert relative_difference(expected, found) < 5e-2


def test_a_part_that_cannot_run_in_half_precision_stays_and_its_children_are_tried():
    class Sampler(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            grid = torch.zeros(len(x), 2, 2, 2)
            # It wants one dtype.
            return F.grid_sample(self.conv(x), grid, align_corners=False)

    net = SmallNet(lambda net, x: net.head(x), head=Sampler()).eval()
    deployed = blendprune.deploy(net, small_inputs(), dtype=torch.bfloat16)
    assert deployed.head.conv.weight.dtype == torch.bfloat16
    assert relative_difference(net(small_inputs()), deployed(small_inputs())) < 5e-2


def refusal(net, **how):
    with pytest.raises(DeployError) as caught:
        blendprune.deploy(net.eval(), small_inputs(), **how)
    return str(caught.value)


def test_weights_that_half_precision_cannot_hold_are_refused():
    net = SmallNet(lambda net, x: net.conv(x), conv=nn.Conv2d(3, 4, 1))
    nn.init.constant_(net.conv.weight, 1e5)
    assert_sentence(
        refusal(net, dtype=torch.float16),
        "conv.weight has numbers up to 1e+05, too large for float16: pass dtype=torch.bfloat16",
    )
    blendprune.deploy(net, small_inputs(), dtype=torch.bfloat16)


def test_a_layer_that_overflows_in_half_precision_is_refused():
    net = SmallNet(lambda net, x: net.conv(x * 1e4), conv=nn.Conv2d(3, 4, 1))
    nn.init.constant_(net.conv.weight, 1e2)
    assert_sentence(
        refusal(net, dtype=torch.float16),
        "conv gives numbers that are too large for float16: pass dtype=torch.bfloat16",
    )


def test_a_model_without_a_part_of_tensors_is_refused():
    class Listed:
        def __init__(self, x):
            self.x = x

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 3, 1, 1))

        def forward(self, listed):
            return F.conv2d(listed.x, self.weight)

    net = SmallNet(lambda net, x: net.inner(Listed(x)), inner=Inner())
    assert_sentence(
        refusal(net, dtype=torch.bfloat16),
        "no part of SmallNet runs in bfloat16: deploy it without dtype",
    )
    assert_sentence(
        refusal(net, compile=True),
        "SmallNet has no part that maps tensors to tensors, which alone can be compiled: deploy "
        "it without compile",
    )
