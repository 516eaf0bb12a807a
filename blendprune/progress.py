"""One interface for the progress of long work."""

import sys

from tqdm import tqdm


class Progress:
    """Hears of the steps of long work. This base class stays silent."""

    def stage(self, text):
        """A stage begins or has ended.

        Args:
            text (str): one line.
        """

    def steps(self, text):
        """A loop begins.

        Args:
            text (str): what its steps are, for example ``"rounds"``.

        Returns:
            Callable: called as ``f(done, total)`` after each step, such as ``progress=`` of
            :func:`blendprune.prune` wants.
        """
        return lambda done, total: None


class LoggedProgress(Progress):
    """Writes every stage and step as a line.

    Args:
        write (Callable): called with the line.
    """

    def __init__(self, write):
        self._write = write

    def stage(self, text):
        self._write(text)

    def steps(self, text):
        return lambda done, total: self._write(f"{text} {done} of {total}")


class TerminalProgress(Progress):
    """Prints stages, and shows loops as bars with the time left where a terminal is."""

    def stage(self, text):
        tqdm.write(f"- {text}", file=sys.stdout)
        sys.stdout.flush()

    def steps(self, text):
        bar = tqdm(desc=f"  {text}", disable=None, leave=False)

        def step(done, total):
            bar.total = total
            bar.update(done - bar.n)
            if done == total:
                bar.close()
                # The next level counts its own steps.
                bar.reset()

        return step
