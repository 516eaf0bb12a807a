"""The command line; see :mod:`.parser`."""

import sys

from ..errors import BlendpruneError
from .parser import parse


def main(argv=None):
    """Run one command.

    Args:
        argv (Sequence[str]): None: the arguments of the process.

    Returns:
        int: 0; 1 when ``status`` or ``doctor`` found drift; 2 after a sentence on stderr that says
        what is wrong.
    """
    try:
        args = parse(argv)
        return args.command(args)
    except BlendpruneError as error:
        print(f"blendprune: {error}", file=sys.stderr)
        return 2
