"""Channels of a layer that go together: equal positions of its parts, or neighbours."""

import numpy as np


def coupling_of(classes):
    """How the channels of a layer are coupled to one another.

    Args:
        classes (ndarray): (channels,) ints; channels of a class go together.

    Returns:
        tuple[int, int] | None: number of equal parts whose equal positions go together, and number
        of neighbours that go together within each of them; None for any other coupling.
    """
    width = len(classes)
    [together] = np.nonzero(classes == classes[0])
    steps = np.flatnonzero(np.diff(together) > 1)
    block = int(steps[0]) + 1 if len(steps) else len(together)
    parts = len(together) // block
    if width % (parts * block):
        return None
    blocks = classes.reshape(parts, -1, block)
    first = blocks[0, :, 0]
    alike = (blocks == first[None, :, None]).all() and len(np.unique(first)) == len(first)
    return (parts, block) if alike else None
