"""Enlarging maps so that cells stay where their locations are (CondInst, arXiv:2003.05664)."""

import torch


def enlarge_aligned(x, factor):
    """Enlarge maps linearly.

    FCOS puts the location of cell ``i`` at ``i * stride + stride // 2``. This keeps it there, other
    than ``F.interpolate``. Output ``o`` is read at ``(o - factor // 2) / factor``, inside the map.

    Args:
        x (Tensor): (N, C, H, W).
        factor (int): at least 1.

    Returns:
        Tensor: (N, C, H * factor, W * factor).
    """
    if factor == 1:
        return x
    for dim in (2, 3):
        size = x.shape[dim]
        outputs = torch.arange(size * factor, device=x.device, dtype=torch.float32)
        where = ((outputs - factor // 2) / factor).clamp(min=0, max=size - 1)
        before = where.floor().long()
        after = (before + 1).clamp(max=size - 1)
        share = (where - before).to(x.dtype)
        share = share[:, None] if dim == 2 else share
        x = x.index_select(dim, before) * (1 - share) + x.index_select(dim, after) * share
    return x
