"""Files that are written whole or not at all."""

import contextlib
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
        with staged(path) as [partial], PathManager.open(partial, "wb") as file:
            torch.save(obj, file)
    except (OSError, TypeError) as error:
        raise CheckpointError(
            f"cannot write {path!r} ({first_line(error)}): choose another file."
        ) from None


@contextlib.contextmanager
def staged(*paths):
    """Yield temporary paths to write to; then move all results into place.

    Nothing is moved if the ``with`` block raises. A local path may be a file or a folder; other
    paths that detectron2's PathManager knows are files.

    Args:
        paths (str): the final paths. Existing files are replaced, and empty folders.

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
                os.replace(partial, path)
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
