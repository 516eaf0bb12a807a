"""What happens while a file is read: files opened, code run, memory and time used."""

import contextlib
import os
import resource
import signal
import sys

#: Audit events of CPython that reading a file never raises.
FORBIDDEN = (
    "exec",
    "import",
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.putenv",
    "os.chdir",
    "os.chmod",
    "os.link",
    "os.symlink",
    "subprocess.Popen",
    "socket.__new__",
    "socket.connect",
    "socket.getaddrinfo",
    "urllib.Request",
    "ctypes.dlopen",
    "shutil.rmtree",
    "shutil.copyfile",
    "tempfile.mkdtemp",
    "tempfile.mkstemp",
    "webbrowser.open",
)
#: Events on files: allowed in the folder of the case.
FILES = ("open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
MAX_MB, MAX_SECONDS = 1500, 30

_active = None


class Watch:
    """What was seen during one ``with`` block.

    Attributes:
        seen (list[str]): forbidden events, and files that are not allowed.
    """

    def __init__(self, paths):
        self.allowed, self.seen = (*map(os.path.realpath, paths), "/proc/", "/dev/null"), []

    def note(self, event, args):
        if event in FORBIDDEN:
            self.seen.append(f"{event} {args[:1]!r:.80}")
        elif event in FILES and isinstance(args[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(args[0]))
            if not (path.startswith(self.allowed) or _looks_for_a_module(event, path)):
                self.seen.append(f"{event} {path}")


def _looks_for_a_module(event, path):
    # importlib.util.find_spec lists a folder of sys.path again when something changed in it.
    return event == "os.listdir" and path in map(os.path.realpath, sys.path)


class TooSlow(BaseException):
    """Not an Exception, so that no reader takes it for an error of its own."""


@contextlib.contextmanager
def watching(*paths):
    """Watch a ``with`` block.

    Args:
        paths (str): folders and files that may be opened.

    Yields:
        Watch: filled while the block runs.

    Raises:
        TooSlow: the block took longer than ``MAX_SECONDS``.
    """
    global _active
    _install()
    watch, before = Watch(paths), peak_mb()

    def stop(*_):
        raise TooSlow(f"more than {MAX_SECONDS} s")

    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(MAX_SECONDS)
    _active = watch
    try:
        yield watch
    finally:
        _active = None
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        grown = peak_mb() - before
        if grown > MAX_MB:
            watch.seen.append(f"{grown:.0f} MB")


def peak_mb():
    """The largest resident memory of this process so far, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


_installed = []


def _install():
    # A hook stays for the life of the process.
    if not _installed:
        _installed.append(True)
        sys.addaudithook(lambda event, args: _active and _active.note(event, args))
