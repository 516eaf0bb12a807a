"""A dense model with masked channels gives what the model without them gives, norms included."""

import copy

import pytest
import torch
from detectron2.layers.batch_norm import LayerNorm
from torch import nn

from blendprune.pruning import ChannelGraph, prunable
from blendprune.pruning.graph.masking import masking
from tests.helpers.groups import group_of
from tests.helpers.small_net import SmallNet, small_inputs


def tokens(run):
    return lambda net, x: run(net, net.a(x).flatten(2).transpose(1, 2))


NETS = {
    "group norm": (lambda net, x: net.p(net.norm(net.a(x))), nn.GroupNorm(2, 8), None),
    "group norm without weights": (
        lambda net, x: net.p(net.norm(net.a(x))),
        nn.GroupNorm(2, 8, affine=False),
        None,
    ),
    "layer norm of channels-first maps": (
        lambda net, x: net.p(net.norm(net.a(x))),
        LayerNorm(8),
        None,
    ),
    "layer norm": (tokens(lambda net, x: net.p(net.norm(x))), nn.LayerNorm(8), nn.Linear(8, 2)),
    "batch norm": (lambda net, x: net.p(net.norm(net.a(x))), nn.BatchNorm2d(8), None),
}


@pytest.mark.parametrize("name", NETS)
def test_norms_of_masked_channels_see_the_others_only(name):
    run, norm, reader = NETS[name]
    norm = copy.deepcopy(norm)
    for p in norm.parameters():
        nn.init.uniform_(p, 0.5, 1.5)
    net = SmallNet(run, a=nn.Conv2d(3, 8, 1), norm=norm, p=reader or nn.Conv2d(8, 2, 1)).eval()
    gone = torch.tensor([0, 1, 5, 7])
    with prunable(net), torch.no_grad():
        graph = ChannelGraph(net, small_inputs())
        group = group_of(graph.groups(), "a")
        dense = net(small_inputs())
        with masking([(group, gone)]):
            masked = net(small_inputs())
        assert torch.equal(net(small_inputs()), dense)
        graph.prune(group, gone)
        assert torch.allclose(net(small_inputs()), masked, atol=1e-5)
        assert not torch.allclose(dense, masked, atol=1e-2)
