"""BezierAlign (ABCNet, arXiv:2002.10200) in PyTorch, for any device and data type.

A region lies between two cubic Bezier curves. The centre of an output cell lies on the line
between the curves' points of the same parameter. The cell is the mean of a grid of bilinear samples
around its centre. As in upstream, this grid is parallel to the axes.
"""

import torch
import torch.nn.functional as F


def bezier_align(features, rois, output_size, spatial_scale, sampling_ratio, aligned=True):
    """Resample regions between Bezier curves to a fixed size.

    It matches AdelaiDet's CUDA operator. Cell (i, j) of h by w is centred at parameters i/h and
    j/w. A sample more than one pixel outside the map is 0; others outside take the border's value.
    (AdelaiDet's CPU operator ignores ``aligned`` in forward, but not in backward.)

    Args:
        features (Tensor): (N, C, H, W).
        rois (Tensor): (R, 17): index of the image, then x and y of eight control points in pixels
            of the image: four of the upper curve from left to right, four of the lower curve from
            right to left.
        output_size (tuple[int, int]): h, w.
        spatial_scale (float): pixels of the map per pixel of the image.
        sampling_ratio (int): samples per cell along each axis. 0: one per pixel of the map; the
            size of a cell follows from the larger distance between a curve's ends.
        aligned (bool): the centre of pixel (0, 0) is at (0.5, 0.5). If False, it is at the origin,
            and regions are at least one pixel large.

    Returns:
        Tensor: (R, C, h, w), differentiable with respect to ``features``.
    """
    centres, cells = _cells(rois.detach(), output_size, spatial_scale, aligned)
    if sampling_ratio > 0:
        counts = torch.full_like(cells, sampling_ratio, dtype=torch.long)
    else:
        counts = cells.ceil().long()
    output = features.new_zeros(len(rois), features.shape[1], *output_size)
    # Process regions of the same image and number of samples together.
    kinds = torch.cat([rois[:, :1].long(), counts], 1)
    for kind in kinds.unique(dim=0):
        image, across, down = kind.tolist()
        chosen = (kinds == kind).all(1).nonzero().squeeze(1)
        if across and down:
            points = _samples(centres[chosen], cells[chosen], across, down)
            output = output.index_copy(0, chosen, _means(features[image], points))
    return output


def bezier_align_backward(grad, rois, output_size, spatial_scale, shape, sampling_ratio, aligned):
    """Gradient of :func:`bezier_align` with respect to its features.

    The operator is linear in the features, so their values are not needed.

    Args:
        grad (Tensor): (R, C, h, w), the gradient of the output.
        shape (tuple[int]): (N, C, H, W) of the features.
        rois, output_size, spatial_scale, sampling_ratio, aligned: as in forward.

    Returns:
        Tensor: (N, C, H, W).
    """
    with torch.enable_grad():
        features = grad.new_zeros(shape, requires_grad=True)
        output = bezier_align(features, rois, output_size, spatial_scale, sampling_ratio, aligned)
        if output.grad_fn is None:  # no regions
            return features.detach()
        return torch.autograd.grad(output, features, grad)[0]


def _cells(rois, output_size, scale, aligned):
    """Centres (R, h, w, 2) and sizes (R, 2) of the cells of each region, x before y."""
    points = rois[:, 1:].reshape(-1, 8, 2) * scale
    upper, lower = points[:, :4], points[:, 4:].flip(1)
    size = torch.maximum((upper[:, 0] - upper[:, 3]).abs(), (lower[:, 0] - lower[:, 3]).abs())
    if not aligned:
        size = size.clamp(min=1)
    height, width = output_size
    u = torch.arange(width, dtype=points.dtype, device=points.device) / width
    v = torch.arange(height, dtype=points.dtype, device=points.device) / height
    # The Bernstein polynomials of degree 3: (w, 4).
    basis = torch.stack([(1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u**2 * (1 - u), u**3], 1)
    upper, lower = (torch.einsum("wk,rkd->rwd", basis, curve) for curve in (upper, lower))
    v = v[:, None, None]
    centres = (1 - v) * upper[:, None] + v * lower[:, None]
    return centres - (0.5 if aligned else 0.0), size / size.new_tensor([width, height])


def _samples(centres, cells, across, down):
    """Positions (R, h, down, w, across, 2) of the samples, x before y."""
    steps = [
        (torch.arange(count, dtype=cells.dtype, device=cells.device) + 0.5) / count - 0.5
        for count in (across, down)
    ]
    x = centres[:, :, None, :, None, 0] + cells[:, 0].view(-1, 1, 1, 1, 1) * steps[0]
    y = centres[:, :, None, :, None, 1] + cells[:, 1].view(-1, 1, 1, 1, 1) * steps[1].view(-1, 1, 1)
    return torch.stack(torch.broadcast_tensors(x, y), -1)


def _means(image, points):
    """Mean (R, C, h, w) of the bilinear samples of a (C, H, W) map over those of each cell."""
    last = points.new_tensor([image.shape[2] - 1, image.shape[1] - 1])
    inside = ((points >= -1) & (points <= last + 1)).all(-1)
    grid = 2 * points.clamp(min=0).minimum(last) / last.clamp(min=1) - 1
    regions, height, down, width, across = inside.shape
    grid = grid.view(1, regions * height * down, width * across, 2).to(image.dtype)
    found = F.grid_sample(image[None], grid, padding_mode="border", align_corners=True)
    found = found.view(-1, *inside.shape) * inside
    return found.mean((3, 5)).transpose(0, 1)
