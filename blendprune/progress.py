"""Progress of long work: told where the work is done, heard by whoever listens."""

import contextlib
import contextvars
import logging
import sys
import time

from tqdm import tqdm

_listener = contextvars.ContextVar("listener")
# Steps inside other steps are many; a log gets one line in so many seconds.
_SECONDS = 10


class Progress:
    """Hears of the steps of long work. This base class stays silent."""

    @contextlib.contextmanager
    def heard(self):
        """Let this one hear of all work of a ``with`` block, in this thread."""
        token = _listener.set(self)
        try:
            yield self
        finally:
            _listener.reset(token)

    def stage(self, text):
        """A stage begins or has ended.

        Args:
            text (str): one line.
        """

    def steps(self, text, detail=False):
        """A loop begins.

        Args:
            text (str): what one of its steps is, for example ``"round"``.
            detail (bool): it is a part of one step of other work.

        Returns:
            Callable: called as ``f(done, total)`` after each step, such as ``progress=`` of
            :func:`blendprune.prune` wants.
        """
        return lambda done, total: None


class LoggedProgress(Progress):
    """Writes every stage and step as a line, and details every ten seconds with the time left.

    Args:
        write (Callable): called with the line.
    """

    def __init__(self, write):
        self._write = write

    def stage(self, text):
        self._write(text)

    def steps(self, text, detail=False):
        began = last = time.monotonic()

        def step(done, total):
            nonlocal last
            now = time.monotonic()
            if not detail:
                self._write(f"{text} {done} of {total} done")
            elif now - last >= _SECONDS:
                last, left = now, (now - began) / done * (total - done)
                self._write(f"{text} {done} of {total}, {tqdm.format_interval(left)} left")

        return step


class TerminalProgress(Progress):
    """Prints stages, and shows loops as bars with the time left where a terminal is."""

    def stage(self, text):
        tqdm.write(f"- {text}", file=sys.stdout)
        sys.stdout.flush()

    def steps(self, text, detail=False):
        bar = tqdm(desc=f"  {text}", disable=None, leave=False)

        def step(done, total):
            bar.total = total
            bar.update(done - bar.n)
            if done == total:
                bar.close()
                if not detail:
                    bar.reset()  # the next level counts its own steps

        return step


class Counted:
    """Items of a loop, each of which is a step that is heard of.

    Args:
        items (Collection): what to loop over.
        text (str): what one of them is, for example ``"layer"``.
    """

    def __init__(self, items, text):
        self._items, self._text = items, text

    def __len__(self):
        return len(self._items)

    def __iter__(self):
        step = listener().steps(self._text, detail=True)
        for done, item in enumerate(self._items, 1):
            yield item
            step(done, len(self))


def stage(text):
    """Tell that a stage begins or has ended.

    Args:
        text (str): one line.
    """
    listener().stage(text)


def listener():
    """Whoever hears of the work of this thread.

    Returns:
        Progress: of the innermost :meth:`Progress.heard`; without one, Python's log of blendprune.
    """
    return _listener.get(_LOG)


_LOG = LoggedProgress(logging.getLogger("blendprune").info)
