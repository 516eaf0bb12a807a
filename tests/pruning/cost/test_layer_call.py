"""A layer, repeated at other widths."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from blendprune.pruning.cost.layer_call import LayerCall

MAP = (2, 8, 9, 7)
LAYERS = {
    "a conv": (nn.Conv2d(8, 4, 3, stride=2, padding=1, bias=False), MAP),
    "a conv in groups": (nn.Conv2d(8, 12, 3, groups=4), MAP),
    "a depthwise conv": (nn.Conv2d(8, 8, 3, groups=8), MAP),
    "a dilated conv": (nn.Conv2d(8, 4, 3, dilation=2, padding="same"), MAP),
    "a transposed conv": (nn.ConvTranspose2d(8, 4, 3, stride=2, output_padding=1), MAP),
    "a conv over time": (nn.Conv1d(8, 4, 3), (2, 8, 9)),
    "a linear": (nn.Linear(8, 5), (6, 8)),
    "a linear on tokens": (nn.Linear(8, 5), (2, 3, 8)),
    "a batch norm": (nn.BatchNorm2d(8), MAP),
    "a frozen batch norm": (FrozenBatchNorm2d(8), MAP),
    "a group norm": (nn.GroupNorm(4, 8), MAP),
    "a layer norm": (nn.LayerNorm(8), (2, 3, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_that_is_built_does_as_much_work(name):
    layer, shape = LAYERS[name]
    x = torch.randn(shape)
    call = LayerCall.of(layer, (x,))
    built, y = call.build(call.width_in, call.width_out, x.device)
    assert y.numel() == x.numel()
    assert built(y).numel() == layer.eval()(x).numel()
    weights = [p.numel() for p in built.parameters() if p.dim() > 1]
    assert weights == [p.numel() for p in layer.parameters() if p.dim() > 1]


@pytest.mark.parametrize("name", LAYERS)
def test_other_widths_are_those_that_are_asked_for(name):
    layer, shape = LAYERS[name]
    call = LayerCall.of(layer, (torch.randn(shape),))
    widths = 2 * call.unit, 3 * call.unit
    built, x = call.build(*widths, torch.device("cpu"))
    axis = -1 if isinstance(layer, (nn.Linear, nn.LayerNorm)) else 1
    assert x.shape[axis] == (widths[0] if call.has_two_widths else widths[1])
    assert built(x).shape[axis] == widths[1]


def test_equal_calls_share_their_key_and_others_do_not():
    x, conv = torch.randn(MAP), nn.Conv2d(8, 4, 3)
    assert LayerCall.of(conv, (x,)) == LayerCall.of(nn.Conv2d(8, 4, 3), (x.clone(),))
    keys = {LayerCall.of(conv, (x,)).key, LayerCall.of(conv, (x[:1],)).key}
    keys |= {LayerCall.of(nn.Conv2d(8, 4, 3, bias=False), (x,)).key}
    assert len(keys) == 3


@pytest.mark.parametrize("inputs", [(), (torch.randn(0, 8, 9, 7),), ([torch.randn(MAP)],)])
def test_a_call_without_numbers_has_no_time(inputs):
    assert LayerCall.of(nn.Conv2d(8, 4, 3), inputs) is None
