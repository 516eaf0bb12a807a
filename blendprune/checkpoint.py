"""Checkpoints with a structure: read safely, converted, written whole."""

import contextlib
import os
import shutil

import torch
from torch import nn

from .config import prune_mode, prunes_in_script
from .errors import CheckpointError, StructError, UnsafeStructError
from .structure import is_pruned, structure_of, validate
from .wrappers import is_compiled, plain_names, plain_state


def read_struct(path):
    """Read the structure from a checkpoint.

    Args:
        path (str): any path that detectron2's PathManager reads.

    Returns:
        dict: the structure, validated.

    Raises:
        CheckpointError: the file is missing or unreadable.
        StructError: the structure is missing or malformed.
    """
    checkpoint = read_checkpoint(path)
    if "struct" not in checkpoint:
        raise StructError(
            f'{path!r} has no "struct": save it with blendprune.apply() in effect, or set '
            "MODEL.FINETUNE False to load a dense model."
        )
    return validate(checkpoint["struct"])


def build_mode(cfg):
    """How ``MODEL.PRUNE`` and ``MODEL.FINETUNE`` want the model of a config to be built.

    Args:
        cfg (CfgNode): with or without the two keys, or an object of another kind.

    Returns:
        tuple[bool, dict | None]: whether ``forward`` returns the raw head outputs, and the
        checkpoint that gives the widths, for :func:`blendprune.loading.restructure_from`. A script
        that prunes takes those of a pruned file at MODEL.WEIGHTS, so that a pruned model can be
        pruned again.

    Raises:
        ConfigError: as for :func:`blendprune.config.prune_mode`.
        CheckpointError: MODEL.FINETUNE is True, and the file cannot be read.
        StructError: MODEL.FINETUNE is True, and the structure is malformed.
    """
    if not hasattr(getattr(cfg, "MODEL", None), "get"):
        return False, None
    prune, finetune = prune_mode(cfg)
    if finetune:
        return False, read_checkpoint(cfg.MODEL.WEIGHTS)
    if prunes_in_script(cfg):
        return False, _pruned_checkpoint(cfg.MODEL.WEIGHTS.partition("?")[0])
    return prune, None


def _pruned_checkpoint(path):
    # The script loads the file itself, in formats that only upstream reads, too.
    if not path or path.endswith(".pkl"):
        return None
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError:
        return None
    struct = struct_in(checkpoint)
    return checkpoint if struct is not None and is_pruned(struct) else None


def struct_in(checkpoint):
    """The structure in a checkpoint.

    Args:
        checkpoint (dict): from :func:`read_checkpoint`.

    Returns:
        dict | None: validated; None if there is none, or another tool's entry of that name.

    Raises:
        StructError: it is malformed.
    """
    struct = checkpoint.get("struct")
    ours = isinstance(struct, dict) and str(struct.get("format", "")).startswith("blendprune")
    return validate(struct) if ours else None


def module_names(checkpoint):
    """Names of the modules, or at least of the tensors, of the model in a checkpoint.

    Args:
        checkpoint (dict): from :func:`read_checkpoint`.

    Returns:
        list[str]: names as upstream's state dict has them.
    """
    struct = struct_in(checkpoint)
    if struct is not None:
        return list(struct["modules"])
    return list(plain_names(weights_in(checkpoint)).values())


def weights_in(checkpoint):
    """The state dict in a checkpoint.

    Args:
        checkpoint (dict): with ``"model"``, or a state dict itself, as detectron2 reads it.

    Returns:
        dict: name → tensor.
    """
    weights = checkpoint.get("model", checkpoint)
    return weights if isinstance(weights, dict) else {}


def read_checkpoint(path):
    """Read a checkpoint without executing code from it.

    Args:
        path (str): any path that detectron2's PathManager reads.

    Returns:
        dict: the file's contents, on the CPU.

    Raises:
        CheckpointError: the file is missing, truncated, or not a checkpoint.
        UnsafeStructError: it contains a pickled module.
    """
    from detectron2.utils.file_io import PathManager

    try:
        local = PathManager.get_local_path(path)
        with open(local, "rb"):
            pass
    except Exception as error:  # PathManager's handlers raise many types
        raise CheckpointError(
            f"cannot open the model file {path!r} ({first_line(error)}): check MODEL.WEIGHTS."
        ) from None
    try:
        checkpoint = torch.load(local, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch raise different types
        refuse_pickled_module(local, path)
        raise CheckpointError(
            f"cannot read {path!r} as a checkpoint ({first_line(error)}): the file is truncated "
            "or not a PyTorch file; copy it again."
        ) from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{path!r} contains a {type(checkpoint).__name__}, not a dict: name a checkpoint that "
            "detectron2 saved."
        )
    return checkpoint


def refuse_pickled_module(local, path):
    """Raise UnsafeStructError if reading a file would execute code from it."""
    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(local)
    except Exception:  # not a zip file: the caller's error says more
        return
    if classes:
        raise UnsafeStructError(
            f"{path!r} contains pickled objects ({classes[0]}, …), and reading them executes code: "
            f"if you trust the file, run `blendprune convert --allow-pickle {path} OUTPUT.pth` "
            "and use OUTPUT.pth."
        )


def convert(path, output, *, allow_pickle=False):
    """Convert a checkpoint whose ``"struct"`` is a pickled module to the plain form.

    Args:
        path (str): a checkpoint of a hand-patched fork; any path PathManager reads.
        output (str): the file to write.
        allow_pickle (bool): allow unpickling, which executes code. Only for files you trust.

    Raises:
        UnsafeStructError: ``allow_pickle`` is False and the file needs it.
        CheckpointError: the file cannot be read, or its ``"struct"`` is not a module.
    """
    from detectron2.utils.file_io import PathManager

    local = PathManager.get_local_path(path)
    if not allow_pickle:
        checkpoint = read_checkpoint(path)
    else:
        try:
            checkpoint = torch.load(local, map_location="cpu", weights_only=False)
        except Exception as error:
            raise CheckpointError(
                f"cannot read {path!r} ({first_line(error)}): check that it is a PyTorch file."
            ) from None
    struct = checkpoint.get("struct")
    if isinstance(struct, nn.Module):
        checkpoint["struct"] = structure_of(struct)
        checkpoint["model"] = struct.state_dict()
    else:
        validate(struct)
    save_atomically(checkpoint, output)


def extras(model):
    """What a checkpoint holds of a model beside what fvcore saves.

    Args:
        model (nn.Module): wrapped or not.

    Returns:
        dict: ``"struct"``; and ``"model"`` where ``torch.compile`` adds to the names of the
        weights, with the names that they have without it.
    """
    found = {"struct": structure_of(model)}
    if any(map(is_compiled, model.modules())):
        found["model"] = plain_state(model)
    return found


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


def first_line(error):
    """First line of an error's message, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
