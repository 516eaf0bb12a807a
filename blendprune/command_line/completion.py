"""Completion in the shell, by the optional package argcomplete."""

import os


def complete(parser):
    """Answer a shell that asks what may follow, and end the process; otherwise do nothing.

    Args:
        parser (ArgumentParser): of all commands.
    """
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        raise SystemExit(1) from None  # the shell shows no error of a completion
    argcomplete.autocomplete(parser)
