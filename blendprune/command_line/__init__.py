"""The command line; see :mod:`.parser`."""

import importlib.util
import sys

from ..errors import BlendpruneError, ConfigError
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
        return _run(argv)
    except BlendpruneError as error:
        print(f"blendprune: {error}", file=sys.stderr)
        return 2


def _run(argv):
    args = parse(argv)
    try:
        return args.command(args)
    except ModuleNotFoundError as error:
        if error.name != "detectron2" or importlib.util.find_spec("detectron2"):
            raise
        # It is no requirement of the package: users have a build of their own.
        raise ConfigError(
            f"detectron2 is not installed for {sys.executable}: build it for the PyTorch there, or "
            "install its wheel as docs/troubleshooting.md shows"
        ) from None
