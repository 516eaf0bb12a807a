"""BezierAlign: the published semantics, written out; roi_align's numbers on a straight region."""

import math

import pytest
import torch
from torchvision.ops import roi_align

from blendprune.errors import OperatorUnavailable
from blendprune.modeling.operators.bezier_align import bezier_align, bezier_align_backward
from blendprune.modeling.operators.extension import standing_in

SIZE = (3, 4)


def curve(points, u):
    """A cubic Bezier curve by de Casteljau's construction."""
    while len(points) > 1:
        points = [
            tuple((1 - u) * a + u * b for a, b in zip(left, right))
            for left, right in zip(points, points[1:])
        ]
    return points[0]


def bilinear(plane, y, x):
    """Zero beyond one pixel outside, the border's value up to there."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = math.floor(y), math.floor(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    upper = (1 - (x - x0)) * plane[y0, x0] + (x - x0) * plane[y0, x1]
    lower = (1 - (x - x0)) * plane[y1, x0] + (x - x0) * plane[y1, x1]
    return (1 - (y - y0)) * upper + (y - y0) * lower


def slow(features, rois, scale, ratio, aligned):
    height, width = SIZE
    out = torch.zeros(len(rois), features.shape[1], height, width, dtype=features.dtype)
    for r, (image, *numbers) in enumerate(rois.tolist()):
        points = [(scale * x, scale * y) for x, y in zip(numbers[::2], numbers[1::2])]
        upper, lower = points[:4], points[:3:-1]
        sides = [
            max(abs(upper[0][axis] - upper[3][axis]), abs(lower[0][axis] - lower[3][axis]))
            for axis in (0, 1)
        ]
        if not aligned:
            sides = [max(side, 1.0) for side in sides]
        wide, high = sides[0] / width, sides[1] / height
        across = ratio or math.ceil(wide)
        down = ratio or math.ceil(high)
        for i in range(height):
            for j in range(width):
                above, below = curve(upper, j / width), curve(lower, j / width)
                x, y = (
                    a + (b - a) * i / height - (0.5 if aligned else 0.0)
                    for a, b in zip(above, below)
                )
                for c in range(features.shape[1]):
                    for k in range(down):
                        for m in range(across):
                            at_y = y - high / 2 + (k + 0.5) * high / down
                            at_x = x - wide / 2 + (m + 0.5) * wide / across
                            value = bilinear(features[int(image), c], at_y, at_x)
                            out[r, c, i, j] += value / (down * across)
    return out


@pytest.fixture
def features():
    return torch.randn(2, 3, 7, 9, dtype=torch.double)


@pytest.fixture
def rois():
    """Curved regions, slanted ones, ones that leave the map."""
    points = 14 * torch.rand(6, 8, 2, dtype=torch.double)
    points[:, 4:] = points[:, 4:] + torch.tensor([0.0, 6.0])
    points[4:] = 1.5 * points[4:] - 8
    image = torch.tensor([[0], [1], [1], [0], [1], [0]])
    return torch.cat([image, points.flatten(1)], 1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_the_numbers_are_those_of_the_published_semantics(features, rois, ratio, aligned):
    found = bezier_align(features, rois, SIZE, 0.5, ratio, aligned)
    assert found.abs().sum() > 0
    assert torch.allclose(found, slow(features, rois, 0.5, ratio, aligned))


def upright(boxes, half_a_cell):
    """Regions of which two straight lines are the upper and lower edge of boxes.

    BezierAlign puts the centre of its first cell on the corner of the region, roi_align half a cell
    inside, so the region starts there.
    """
    image, x0, y0, x1, y1 = boxes.unbind(1)
    width, height = x1 - x0, y1 - y0
    x0, x1 = (x + half_a_cell * width / SIZE[1] for x in (x0, x1))
    y0, y1 = (y + half_a_cell * height / SIZE[0] for y in (y0, y1))
    t = torch.arange(4, dtype=boxes.dtype) / 3
    along = x0[:, None] + t * (x1 - x0)[:, None]
    upper = torch.stack([along, y0[:, None].expand(-1, 4)], 2)
    lower = torch.stack([along.flip(1), y1[:, None].expand(-1, 4)], 2)
    return torch.cat([image[:, None], torch.cat([upper, lower], 1).flatten(1)], 1)


@pytest.mark.parametrize("aligned", [True, False])
def test_a_straight_region_is_what_roi_align_gives_for_its_box(features, aligned):
    boxes = torch.tensor([[0, 1, 2, 13, 11], [1, 3.3, 0.4, 9.1, 12.2], [1, -6, 2, 20, 17]])
    boxes = boxes.double()
    found = bezier_align(features, upright(boxes, 0.5), SIZE, 0.5, 1, aligned)
    assert torch.allclose(found, roi_align(features, boxes, SIZE, 0.5, 1, aligned))


@pytest.mark.parametrize("ratio", [0, 2])
def test_the_gradient_is_that_of_the_features(features, rois, ratio):
    features.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: bezier_align(x, rois, SIZE, 0.5, ratio), features, fast_mode=True
    )
    out = bezier_align(features, rois, SIZE, 0.5, ratio)
    grad = torch.randn_like(out)
    [expected] = torch.autograd.grad(out, features, grad)
    found = bezier_align_backward(grad, rois, SIZE, 0.5, features.shape, ratio, True)
    assert torch.allclose(found, expected)


def test_no_region_gives_an_empty_output(features):
    none = torch.zeros(0, 17, dtype=torch.double)
    assert bezier_align(features, none, SIZE, 0.5, 1).shape == (0, 3, *SIZE)
    grad = torch.zeros(0, 3, *SIZE, dtype=torch.double)
    assert not bezier_align_backward(grad, none, SIZE, 0.5, features.shape, 1, True).any()


def test_a_region_without_extent_gives_zeros_where_pixels_are_counted(features):
    point = torch.cat([torch.zeros(1, 1), torch.full((1, 16), 4.0)], 1).double()
    assert not bezier_align(features, point, SIZE, 1.0, 0).any()
    assert bezier_align(features, point, SIZE, 1.0, 0, False).any()


def test_single_precision_agrees(features, rois):
    exact = bezier_align(features, rois, SIZE, 0.5, 1)
    assert torch.allclose(
        bezier_align(features.float(), rois.float(), SIZE, 0.5, 1).double(), exact, atol=1e-4
    )


def test_adelaidets_layer_reaches_it_through_the_placeholder(adelaidet, features, rois):
    from adet.layers import BezierAlign, DefROIAlign

    features.requires_grad_()
    layer = BezierAlign(SIZE, 0.5, 1)
    found = layer(features, rois)
    assert torch.equal(found, bezier_align(features, rois, SIZE, 0.5, 1))
    assert torch.autograd.gradcheck(lambda x: layer(x, rois), features, fast_mode=True)
    with pytest.raises(OperatorUnavailable, match="def_roi_align_forward"):
        DefROIAlign(SIZE, 0.5, 1, trans_std=0.1)(features, rois[:, :5], torch.zeros(6, 2, 3, 4))


def test_the_placeholder_knows_its_operators_without_adelaidet(features, rois):
    from blendprune.modeling.operators.extension import _Placeholder

    extension = _Placeholder("adet._C")
    with standing_in():
        found = extension.bezier_align_forward(features, rois, 0.5, *SIZE, 1, True)
    assert torch.equal(found, bezier_align(features, rois, SIZE, 0.5, 1))
    back = extension.bezier_align_backward(found, rois, 0.5, *SIZE, *features.shape, 1, True)
    assert torch.equal(back, bezier_align_backward(found, rois, SIZE, 0.5, features.shape, 1, True))
    with pytest.raises(OperatorUnavailable, match="ml_nms is not compiled"):
        extension.ml_nms()
