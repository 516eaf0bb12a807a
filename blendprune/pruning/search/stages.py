"""Where the time of a pruning goes."""

import contextlib
import time

from ..cost.latency import wait_for_device


class StageSeconds(dict):
    """Seconds of wall-clock time by the name of a stage, over all rounds."""

    @contextlib.contextmanager
    def of(self, stage):
        """Add the time of a ``with`` block to a stage."""
        wait_for_device()
        start = time.perf_counter()
        try:
            yield
        finally:
            wait_for_device()
            self[stage] = self.get(stage, 0.0) + time.perf_counter() - start
