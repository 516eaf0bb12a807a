"""Deformable convs: the numbers of detectron2's formulas, and its constructor."""

import copy
import inspect
import math

import pytest
import torch
from torch import nn
from torch.nn.modules.utils import _pair

from blendprune.errors import ConfigError
from blendprune.modeling.operators.deform_conv import DeformConv, ModulatedDeformConv

SHAPES = {
    "plain": {},
    "stride": {"stride": 2, "padding": 1},
    "dilated": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "offset groups": {"deformable_groups": 2, "padding": 1},
    "both groups": {"groups": 4, "deformable_groups": 2, "padding": 1, "kernel_size": (1, 3)},
}
CLASSES = (DeformConv, ModulatedDeformConv)


def inputs_of(conv, x):
    """Random offsets, some far outside, and (if modulated) weights of the samples."""
    size = [
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, k, s, p, d in zip(
            x.shape[2:], conv.kernel_size, *map(_pair, (conv.stride, conv.padding, conv.dilation))
        )
    ]
    samples = conv.deformable_groups * math.prod(conv.kernel_size)
    offset = 3 * torch.randn(x.shape[0], 2 * samples, *size, dtype=x.dtype)
    mask = torch.rand(x.shape[0], samples, *size, dtype=x.dtype)
    return (x, offset, mask) if isinstance(conv, ModulatedDeformConv) else (x, offset)


def slow(conv, x, offset, mask=None):
    """The sums of arXiv:1703.06211 (2) and arXiv:1811.11168 (1), sample by sample."""
    rows, columns = conv.kernel_size
    stride, padding, dilation = map(_pair, (conv.stride, conv.padding, conv.dilation))
    images, _, height, width = offset.shape
    out = torch.zeros(images, conv.out_channels, height, width, dtype=x.dtype)
    per_group = conv.in_channels // conv.groups
    per_offset = conv.in_channels // conv.deformable_groups
    for n, o, i, j in torch.cartesian_prod(*map(torch.arange, out.shape)).tolist():
        total = 0.0 if conv.bias is None else conv.bias[o]
        first = o // (conv.out_channels // conv.groups) * per_group
        for c in range(per_group):
            part = (first + c) // per_offset
            for k in range(rows * columns):
                at = part * rows * columns + k
                y = i * stride[0] - padding[0] + k // columns * dilation[0]
                z = j * stride[1] - padding[1] + k % columns * dilation[1]
                y, z = y + offset[n, 2 * at, i, j], z + offset[n, 2 * at + 1, i, j]
                value = bilinear(x[n, first + c], y.item(), z.item())
                weight = conv.weight[o, c, k // columns, k % columns]
                total = total + weight * value * (1.0 if mask is None else mask[n, at, i, j])
        out[n, o, i, j] = total
    return out


def bilinear(plane, y, x):
    """Between the four nearest pixels; those outside are 0."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                total = total + weight * plane[row, column]
    return total


def build(kind, shape, **more):
    conv = kind(4, 8, **{"kernel_size": 3, **SHAPES[shape], **more})
    if conv.bias is not None:
        nn.init.normal_(conv.bias)
    return conv.double()


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_numbers_are_those_of_the_papers_sums(kind, shape):
    conv = build(kind, shape)
    inputs = inputs_of(conv, torch.randn(1, 4, 5, 6, dtype=torch.double))
    with torch.no_grad():
        assert torch.allclose(conv(*inputs), slow(conv, *inputs))


@pytest.mark.parametrize("kind", CLASSES)
def test_without_offsets_it_is_a_convolution(kind):
    conv = build(kind, "groups")
    x, offset, *mask = inputs_of(conv, torch.randn(2, 4, 5, 6, dtype=torch.double))
    found = conv(x, 0 * offset, *[torch.ones_like(m) for m in mask])
    assert torch.allclose(found, nn.functional.conv2d(x, conv.weight, conv.bias, 1, 1, 1, 2))


@pytest.mark.parametrize("kind", CLASSES)
def test_gradients_reach_everything(kind):
    conv = build(kind, "offset groups")
    inputs = inputs_of(conv, torch.randn(1, 4, 3, 3, dtype=torch.double))
    inputs = [value.requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(conv, inputs, atol=1e-4)
    conv(*inputs).sum().backward()
    assert all(p.grad is not None for p in conv.parameters())


@pytest.mark.parametrize("kind", CLASSES)
def test_norm_and_activation_follow(kind):
    norm = nn.BatchNorm2d(8).double().eval()
    nn.init.normal_(norm.weight)
    conv = build(kind, "plain", norm=norm, activation=torch.relu)
    bare = copy.deepcopy(conv)
    bare.norm = bare.activation = None
    inputs = inputs_of(conv, torch.randn(1, 4, 5, 6, dtype=torch.double))
    assert torch.equal(conv(*inputs), torch.relu(norm(bare(*inputs))))


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_image_gives_an_empty_output_of_the_right_shape(kind, shape):
    conv = build(kind, shape, norm=nn.BatchNorm2d(8))
    full = conv.double()(*inputs_of(conv, torch.randn(1, 4, 9, 9, dtype=torch.double)))
    x = torch.zeros(0, 4, 9, 9, dtype=torch.double, requires_grad=True)
    empty = conv(*inputs_of(conv, x))
    assert empty.shape == (0, *full.shape[1:])
    empty.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("kind", CLASSES)
def test_groups_that_do_not_divide_the_channels_are_refused(kind):
    with pytest.raises(ConfigError, match="take a divisor"):
        kind(4, 8, 3, groups=3)


def test_a_bias_is_refused_where_upstream_has_none():
    with pytest.raises(ConfigError, match="ModulatedDeformConv"):
        DeformConv(4, 8, 3, bias=True)


@pytest.mark.parametrize("kind", CLASSES)
def test_signature_attributes_and_state_are_upstreams(kind, upstreams_source):
    theirs = upstreams_source[kind.__name__]
    assert inspect.signature(kind) == inspect.signature(theirs)
    ours = kind(4, 8, 3, groups=2, deformable_groups=2)
    theirs = theirs(4, 8, 3, groups=2, deformable_groups=2)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    assert {k: v for k, v in vars(ours).items() if not k.startswith("_")} == {
        k: v for k, v in vars(theirs).items() if not k.startswith("_")
    }
    assert repr(ours) == repr(theirs)


@pytest.fixture(scope="module")
def upstreams_source():
    """Upstream's own classes, from its source, as where its extension is compiled."""
    import detectron2.layers.deform_conv as upstream

    source, dummies, _ = inspect.getsource(upstream).partition(
        "\ntry:\n    from detectron2 import _C"
    )
    assert dummies
    names = {"__name__": upstream.__name__, "__package__": upstream.__package__}
    exec(compile(source, upstream.__file__, "exec"), names)
    return names
