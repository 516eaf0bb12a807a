"""Digests, by which files name what they belong to."""

import hashlib

import torch


def digest(model):
    """SHA-256 of a state dict: names, shapes and numbers.

    Args:
        model (nn.Module): outside the prunable view.

    Returns:
        str: 64 hexadecimal digits.
    """
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
