"""A process that is killed at one of its file operations, or after some time."""

import os
import signal
import sys
import time
import traceback

# Of the audit events of CPython that concern files; before the operation.
_EVENTS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.utime")


def run_killed(work, folder, operation=None, seconds=None):
    """Run work in a forked process, and kill it (SIGKILL).

    Args:
        work (Callable): called without arguments.
        folder (str): only operations on paths in it count.
        operation (int): kill before the operation of this number, from 0 on.
        seconds (float): kill after this time.

    Returns:
        bool: whether it was killed; False: the work had ended.
    """
    child = os.fork()
    if child == 0:
        if operation is not None:
            _kill_at(operation, os.path.abspath(folder))
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(3)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the work failed"
    return os.WIFSIGNALED(status)


def _kill_at(operation, folder):
    seen = 0

    def watch(event, args):
        nonlocal seen
        if event not in _EVENTS:
            return
        paths = (os.fsdecode(path) for path in args[:2] if isinstance(path, (str, bytes)))
        if any(os.path.abspath(path).startswith(folder) for path in paths):
            if seen == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(watch)
