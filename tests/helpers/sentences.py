"""Sentences about wrong calls, and what a refused call must leave alone."""

import re
from pathlib import Path


def assert_sentence(found, expected):
    """Compare a message with the expected one; ``…`` stands for any text.

    Args:
        found (str): the message.
        expected (str): what was found, what was wanted, the next step.
    """
    pattern = ".*".join(map(re.escape, expected.split("…")))
    assert re.fullmatch(pattern, found), f"\nfound:    {found}\nexpected: {expected}"
    assert "\n" not in found and "Traceback" not in found
    assert len(found) < 600


def contents(folder):
    """Every file below a folder, its size and when it was written (dict[str, tuple])."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
