"""Layers as linear maps: the rows and the matrix say what the layer does, exactly."""

import pytest
import torch
from detectron2.layers import DeformConv
from torch import nn

from blendprune.pruning import prunable
from blendprune.pruning.reconstruction.linear_maps import linear_map

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (3, 7, 6)),
    "conv": (lambda: nn.Conv2d(6, 4, 3, 2, 1), (2, 6, 9, 8)),
    "pointwise": (lambda: nn.Conv2d(6, 4, 1, bias=False), (2, 6, 5, 4)),
    "dilated": (lambda: nn.Conv2d(6, 4, (3, 5), 1, (2, 1), (2, 1)), (2, 6, 9, 8)),
    "grouped": (lambda: nn.Conv2d(6, 9, 3, 1, 1, groups=3), (2, 6, 5, 6)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, 1, 1, groups=6), (2, 6, 5, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 2, 2), (2, 6, 5, 4)),
    "overlapping": (lambda: nn.ConvTranspose2d(6, 4, (4, 3), 2, 1, (0, 1)), (2, 6, 5, 4)),
    "group norm": (lambda: nn.GroupNorm(3, 6), (2, 6, 5, 4)),
    "layer norm": (lambda: nn.LayerNorm(6), (2, 5, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_matrix_is_the_output(name):
    build, shape = LAYERS[name]
    _check(randomised(build()), torch.randn(shape))


@pytest.mark.parametrize("groups", [1, 2])
def test_deformed_rows_times_matrix_is_the_output(overlay, groups):
    layer = randomised(DeformConv(6, 4, 3, stride=2, padding=1, groups=groups)).eval()
    with prunable(layer):
        _check(layer, torch.randn(2, 6, 9, 8), torch.randn(2, 18, 5, 4))


def _check(layer, *args):
    rows = linear_map(layer)
    y = layer(*args).detach()
    where = torch.randperm(rows.count(y))[: rows.count(y) // 2]
    inputs, matrix = rows.inputs(args, where), rows.matrix()
    assert inputs.shape == (len(where), matrix.shape[0], matrix.shape[2])
    found = torch.einsum("pgi,goi->pgo", inputs, matrix).flatten(1)
    if layer.bias is not None:
        found = found + layer.bias
    assert torch.allclose(found, rows.outputs(y, where), atol=1e-5)

    before = layer.weight
    rows.set_matrix(2 * matrix)
    assert torch.equal(layer.weight, 2 * before)
    assert layer.weight is not before


@pytest.mark.parametrize("name", LAYERS)
def test_the_outputs_that_a_cut_leaves_are_known_by_their_numbers(name):
    build, _ = LAYERS[name]
    layer = build()
    shape = tuple(layer.weight.shape)
    entries = torch.arange(layer.weight.numel()).view(shape)
    dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    kept = torch.tensor([1, 3])
    found = linear_map(layer).output_channels(entries.index_select(dim, kept), shape)
    assert found.tolist() == kept.tolist()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(3, 4, 3),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(4, 4, 2, groups=2),
        nn.BatchNorm2d(3),
        nn.GroupNorm(1, 3, affine=False),
        nn.LayerNorm((3, 4)),
        nn.ReLU(),
    ],
    ids=lambda layer: str(layer).partition("(")[0],
)
def test_a_layer_that_is_no_such_map_is_left_alone(layer):
    assert linear_map(layer) is None


def randomised(layer):
    for p in layer.parameters():
        nn.init.normal_(p)
    return layer
