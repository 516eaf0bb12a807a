"""What layers give is recorded as they give it."""

import torch
from torch import nn

from blendprune.pruning.graph.comparison import Recorder, as_recorded
from tests.helpers.small_net import SmallNet, small_inputs


def test_what_is_written_into_an_output_behind_its_layer_is_not_recorded():
    net = SmallNet(lambda net, x: net.p(x).sigmoid_(), p=nn.Conv2d(3, 2, 1)).eval()
    nn.init.constant_(net.p.bias, -4.0)
    with torch.no_grad():
        run = Recorder(net)(lambda: net(small_inputs()))
        [(layer, output)] = run.outputs
        wanted = as_recorded(net.p, net.p(small_inputs()[0]["image"][None]), run.factors[0])
    assert layer is net.p
    assert torch.allclose(output, wanted)
