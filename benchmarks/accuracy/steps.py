"""Steps whose results are stored one by one; several processes share them."""

import contextlib
import fcntl
import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from iopath.common.file_io import file_lock

from blendprune.files import staged

# Seconds between two looks for a step that another process has made possible.
_PAUSE = 1.0


class Results:
    """Results by the name of their step, in one file.

    Args:
        path (str): a JSON file, written at the first result.
    """

    def __init__(self, path):
        self.path = path

    def read(self):
        """Read all results: dict of name → dict."""
        if not os.path.exists(self.path):
            return {}
        with open(self.path) as file:
            return json.load(file)

    def add(self, name, result):
        """Store one more result."""
        with file_lock(self.path):
            self._write(self.read() | {name: result})

    def drop(self, name):
        """Forget a result."""
        with file_lock(self.path):
            self._write({key: value for key, value in self.read().items() if key != name})

    def _write(self, results):
        with staged(self.path) as [partial], open(partial, "w") as file:
            json.dump(results, file, indent=2)


@dataclass(frozen=True)
class Step:
    """A step of the work.

    Attributes:
        results (Results): where its result goes.
        name (str): unique there.
        run (Callable): called without arguments; returns numbers by name.
        needs (tuple[str, ...]): names of the steps, of the same results, to be done before.
    """

    results: Results
    name: str
    run: Callable
    needs: tuple = ()


def run_steps(steps, until=float("inf")):
    """Run the steps without results in the given order, each as soon as what it needs is done.

    Another process with the same steps takes the next one that nobody runs. Where none is left, it
    waits. If a process ends early, another one runs its step again. If a step fails, its traceback
    is printed, and the steps that do not need it go on.

    Args:
        steps (Sequence[Step]): the most important ones first, each after what it needs.
        until (float): value of ``time.monotonic()`` after which no step begins.

    Returns:
        tuple[list[Step], list[Step]]: the steps without results; those of them that failed here.
    """
    failed = []
    while left := [step for step in steps if not _is_done(step)]:
        possible = _possible(left, failed)
        if not possible or time.monotonic() > until:
            break
        for step in filter(_is_ready, possible):
            try:
                if _run_if_free(step):
                    break
            except Exception:  # whatever the step raises
                traceback.print_exc()
                failed.append(step)
                break
        else:
            time.sleep(_PAUSE)
    return left, failed


def _possible(left, failed):
    """The steps that need none of those that failed."""
    hopeless = {(step.results.path, step.name) for step in failed}
    possible = []
    for step in left:
        path = step.results.path
        if any((path, name) in hopeless for name in (step.name, *step.needs)):
            hopeless.add((path, step.name))
        else:
            possible.append(step)
    return possible


def _is_done(step):
    return step.name in step.results.read()


def _is_ready(step):
    return set(step.needs) <= set(step.results.read())


def _run_if_free(step):
    """Run a step unless another process does, or has done; return whether it ran."""
    folder = os.path.dirname(step.results.path)
    with _claim(os.path.join(folder, "locks", step.name)) as mine:
        if not mine or _is_done(step):
            return False
        start = time.perf_counter()
        result = step.run() | {"wall_s": round(time.perf_counter() - start)}
        step.results.add(step.name, result)
    words = ", ".join(f"{key} {value:g}" for key, value in result.items())
    print(f"{os.path.relpath(folder)}: {step.name}: {words}", flush=True)
    return True


@contextlib.contextmanager
def _claim(path):
    """Hold a lock that ends with the process; yield whether it was free."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
