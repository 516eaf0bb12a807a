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
        what is wrong; 130 after one that says how to go on, if Ctrl-C has ended it.
    """
    go_on = "give the same command again; every file that it wrote is complete"
    try:
        args = parse(argv)
        go_on = getattr(args, "go_on", go_on)
        return args.command(args)
    except BlendpruneError as error:
        print(f"blendprune: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"blendprune: interrupted: {go_on}", file=sys.stderr)
        return 130
