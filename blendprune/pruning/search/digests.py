"""Digests, by which files name what they belong to."""

import hashlib
import pickle
import uuid

import torch

from ... import distributed


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
        found.update(_bytes(value))
    return found.hexdigest()


def data_digests(batches):
    """SHA-256 of calibration data: pictures, labels, and their order.

    Args:
        batches (list[list[dict]] | None): of this process.

    Returns:
        list[str]: one of each process. Data that cannot be pickled gives another digest each time.
    """
    found = hashlib.sha256()
    try:
        _Pickler(_Writer(found)).dump(batches)
        own = found.hexdigest()
    except Exception:  # of objects of the user's: many
        own = uuid.uuid4().hex
    return distributed.gathered(own)


def text_digest(value):
    """SHA-256 of a value's ``repr``.

    Args:
        value (object): plain data. Other objects may have an address in it, and thus another digest
            in each process.

    Returns:
        str: 64 hexadecimal digits.
    """
    return hashlib.sha256(repr(value).encode()).hexdigest()


class _Pickler(pickle.Pickler):
    """Writes the numbers of a tensor; torch's own pickle has addresses of the memory."""

    def reducer_override(self, value):
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        return str, (f"{value.dtype} {tuple(value.shape)}", bytes(_bytes(value)))


class _Writer:
    """A file that keeps a digest alone."""

    def __init__(self, sha):
        self.write = sha.update


def _bytes(tensor):
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
