"""Files that are written whole or not at all.

A file is written beside its final path, flushed to the disk, and renamed. Whenever a process or the
machine stops, the path has the old file or the new one.
"""

import contextlib
import errno
import io
import json
import os
import shutil
import tempfile

import torch

from .errors import CheckpointError, ConfigError, first_line


def save_atomically(obj, path):
    """Save with ``torch.save``, so that ``path`` never holds an incomplete file.

    Raises:
        CheckpointError: the path cannot be written.
    """
    from detectron2.utils.file_io import PathManager

    try:
        with explained_write(path), staged(path) as [partial]:
            with PathManager.open(partial, "wb") as file:
                torch.save(obj, file)
    except TypeError as error:
        raise CheckpointError(
            f"cannot write {path!r} ({first_line(error)}): choose another file."
        ) from None


def save_json(values, path):
    """Save as JSON, so that ``path`` never holds an incomplete file; its folder is made.

    Args:
        values (dict): plain data.
        path (str): any address PathManager knows.

    Raises:
        CheckpointError: the path cannot be written.
    """
    from detectron2.utils.file_io import PathManager

    with explained_write(path):
        if os.path.dirname(path):
            PathManager.mkdirs(os.path.dirname(path))
        with staged(path) as [partial], PathManager.open(partial, "w") as file:
            json.dump(values, file, indent=2)


@contextlib.contextmanager
def explained_write(path):
    """Raise one sentence if what the ``with`` block writes fails, for want of room or of rights.

    Args:
        path (str): the file or folder that it writes to.

    Raises:
        CheckpointError: in place of an OSError, also of one that torch turned into another error.
        KeyboardInterrupt: in place of an error that torch turned it into.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        failure = _first_fault(error)
        if failure is None:
            raise
        if isinstance(failure, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        full = failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        otherwise = "make room; what was there before is intact" if full else "choose another file"
        reason = failure.strerror or first_line(failure)
        raise CheckpointError(f"cannot write {path!r} ({reason}): {otherwise}.") from error


def _first_fault(error):
    """What was first in a chain of errors: torch's writer reports a short file instead."""
    while error is not None and not isinstance(error, (OSError, KeyboardInterrupt)):
        error = error.__cause__ or error.__context__
    return error


@contextlib.contextmanager
def staged(*paths):
    """Yield temporary paths to write to; then move all results into place, one after another.

    Nothing is moved if the ``with`` block raises. A local path may be a file or a folder; other
    paths that detectron2's PathManager knows are files.

    Args:
        paths (str): the final paths. Existing files are replaced, and empty folders. If a process
            stops between two moves, the paths before are new and the others old.

    Yields:
        list[str]: one temporary path beside each final path.

    Raises:
        CheckpointError: a file cannot be moved into place.
    """
    from detectron2.utils.file_io import PathManager

    partials = [_partial(path) for path in paths]
    for partial in partials:  # a killed process may have left them
        _remove(partial)
    try:
        yield partials
        for partial, path in zip(partials, paths):
            if os.path.exists(partial):
                _move(partial, path)
                continue
            # PathManager does not move onto an existing file.
            if PathManager.exists(path):
                PathManager.rm(path)
            if not PathManager.mv(partial, path):
                raise CheckpointError(
                    f"cannot move {partial!r} to {path!r}: check that the folder is writable."
                )
    finally:
        for partial in partials:
            _remove(partial)


class WholeFiles:
    """A PathManager whose files, when written, are whole or not there.

    Args:
        upstream (PathManager): does everything else, also for paths with a prefix (``s3://``).
    """

    def __init__(self, upstream):
        self._upstream = upstream

    def __getattr__(self, name):
        return getattr(self._upstream, name)

    def open(self, path, mode="r", buffering=-1, **kwargs):
        """Open a file; one that is written gets its name when it is closed without an error."""
        if "://" in path or mode not in ("w", "wb"):
            return self._upstream.open(path, mode, buffering, **kwargs)
        file = _WholeFile(path)
        return file if mode == "wb" else _WholeText(file, **kwargs)


class _WholeFile(io.BufferedWriter):
    """A new binary file, in place of the one at its path once it is closed."""

    def __init__(self, path):
        self._path, self._partial, self.failed = path, _partial(path), False
        super().__init__(io.FileIO(self._partial, "w"))

    def __exit__(self, *error):
        self.failed = error[0] is not None
        super().__exit__(*error)

    def close(self):
        if self.closed:
            return
        try:
            super().close()
            if not self.failed:
                _move(self._partial, self._path)
        finally:
            _remove(self._partial)


class _WholeText(io.TextIOWrapper):
    def __exit__(self, *error):
        self.buffer.failed = error[0] is not None
        super().__exit__(*error)


def _move(partial, path):
    """Rename, after what was written is on the disk."""
    # Folders hold what can be made again.
    if os.path.isfile(partial):
        _sync(partial)
    os.replace(partial, path)
    _sync(os.path.dirname(os.path.abspath(path)))


def _sync(path):
    with contextlib.suppress(OSError):  # of file systems that cannot
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _partial(path):
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.partial")


def _remove(path):
    from detectron2.utils.file_io import PathManager

    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    elif PathManager.exists(path):
        PathManager.rm(path)


def make_writable(folder):
    """Make a folder if needed.

    Args:
        folder (str): a local one.

    Raises:
        ConfigError: it cannot be written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write to the output folder {folder!r} ({error.strerror}): choose another with "
            "--output."
        ) from None
