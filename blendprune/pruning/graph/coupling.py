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
    if width % (parts * block) or 1 < width == len(together):
        return None
    blocks = classes.reshape(parts, -1, block)
    first = blocks[0, :, 0]
    alike = (blocks == first[None, :, None]).all() and len(np.unique(first)) == len(first)
    return (parts, block) if alike else None


def parts_of(classes, divided):
    """In how many equal parts a layer must lose equally many channels, so that others stay equal.

    Args:
        classes (ndarray): (channels,) of the layer.
        divided (ndarray): (parts, channels of each): classes in what must stay equally wide.

    Returns:
        int | None: 1 if any channels may go; None if no equal parts of the layer will do.
    """
    inside = np.isin(divided, classes)
    if not inside.any():
        return 1
    counts = [{int(each): (part == each).sum() for each in np.unique(classes)} for part in divided]
    if all(each == counts[0] for each in counts):
        return 1
    width, parts = len(classes), len(divided)
    if not inside.all() or width % parts:
        return None
    own = classes.reshape(parts, -1)
    same = all(np.array_equal(np.unique(a), np.unique(b)) for a, b in zip(own, divided))
    once = len(np.unique(classes)) == width
    return parts if same and once else None
