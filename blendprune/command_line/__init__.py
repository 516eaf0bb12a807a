"""The command line; see :mod:`.parser`."""

import importlib.util
import os
import sys

from ..errors import BlendpruneError, ConfigError
from ..progress import LoggedProgress, Progress, TerminalProgress
from .parser import parse


def main(argv=None):
    """Run one command.

    Args:
        argv (Sequence[str]): None: the arguments of the process.

    Returns:
        int: 0; 1 when ``status`` or ``doctor`` found drift; 2 after a sentence on stderr that says
        what is wrong; 130 after one that says how to go on, if Ctrl-C has ended it; 141 without a
        word, if nobody reads on, as of ``blendprune doctor | head``.
    """
    go_on = "give the same command again; every file that it wrote is complete"
    try:
        args = parse(argv)
        go_on = getattr(args, "go_on", go_on)
        if getattr(args, "waits_passively", True):
            # Read when PyTorch is imported. Threads that spin while they wait take most of the time
            # of a machine that has other work.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        code = _run(args)
        sys.stdout.flush()
        return code
    except BlendpruneError as error:
        print(f"blendprune: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"blendprune: interrupted: {go_on}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python writes what is left when it ends, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(args):
    try:
        with _progress(args).heard():
            return args.command(args)
    except ModuleNotFoundError as error:
        if error.name != "detectron2" or importlib.util.find_spec("detectron2"):
            raise
        # It is no requirement of the package: users have a build of their own.
        raise ConfigError(
            f"detectron2 is not installed for {sys.executable}: build it for the PyTorch there, or "
            "install its wheel as docs/troubleshooting.md shows"
        ) from None


def _progress(args):
    if getattr(args, "quiet", True) or getattr(args, "json", False):
        return Progress()
    if sys.stderr.isatty():
        return TerminalProgress()
    return LoggedProgress(lambda line: print(f"- {line}", flush=True))
