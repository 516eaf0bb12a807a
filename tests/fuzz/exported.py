"""``.onnx`` files: cut off, flipped, and with metadata that anyone may have written."""

import json
import random
from pathlib import Path

from tests.fuzz.structs import changed
from tests.helpers.small_onnx import METADATA, write_small


def metadata():
    """A strategy of metadata that is wrong somewhere."""
    return changed(METADATA)


def with_metadata(value, folder):
    """Bytes of a small exported file.

    Args:
        value (object): its metadata, or what has no JSON.
        folder (str): for a moment.
    """
    path = Path(folder, "made.onnx")
    try:
        text = json.dumps(value, default=str)
    except (TypeError, ValueError):  # keys of several kinds; an int of 5000 digits
        text = "[" * 100_000
    write_small(path, text)
    return path.read_bytes()


def broken(count, folder, seed=0):
    """Bytes of small exported files, half of them cut off, half with flipped bits.

    Args:
        count (int): how many.
        folder (str): for a moment.
        seed (int): of the flips.
    """
    path, choose = Path(folder, "made.onnx"), random.Random(seed)
    write_small(path)
    good = path.read_bytes()
    for number in range(count):
        found = bytearray(good)
        if number % 2:
            for _ in range(choose.randint(1, 4)):
                found[choose.randrange(len(found))] ^= 1 << choose.randrange(8)
        else:
            del found[number * len(good) // count :]
        yield bytes(found)
