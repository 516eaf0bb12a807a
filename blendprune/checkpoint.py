"""Checkpoints with a structure: reading them safely, rebuilding models, converting old ones."""

import contextlib
import os
import shutil

import torch
from torch import nn

from .errors import CheckpointError, StructError, UnsafeStructError
from .structure import FORMAT, is_pruned, remember, restructure, structure_of, validate


def load(path, *, model=None, device=None):
    """Rebuild a model from a checkpoint alone: its structure, then its weights, strictly.

    Args:
        path (str): a checkpoint saved under the overlay; any address PathManager knows.
        model (nn.Module): the dense model, where it is not built from a detectron2 config.
        device (str): defaults to the config's device, or the CPU where that one is absent.

    Returns:
        nn.Module: the model in eval mode.

    Raises:
        CheckpointError: the file is missing, unreadable, or does not fit its own structure.
        StructError: it holds no structure, a malformed one, or one of another model.
    """
    checkpoint = read_checkpoint(path)
    struct = _struct_in(checkpoint, path)
    if model is None:
        model = _build_dense(struct, device, path)
    elif device is not None:
        model.to(device)
    restructure(model, struct)
    try:
        model.load_state_dict(checkpoint["model"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f'the weights in {path} do not fit its own "struct" ({first_line(error)}): '
            "the file was altered; save it anew from the model it came from."
        ) from None
    return model.eval()


def read_struct(path):
    """Read the structure from a checkpoint.

    Args:
        path (str): any address detectron2's PathManager knows.

    Returns:
        dict: the structure, validated.

    Raises:
        CheckpointError: the file is missing or unreadable.
        StructError: it holds no structure, or a malformed one.
    """
    return _struct_in(read_checkpoint(path), path)


def read_checkpoint(path):
    """Read a checkpoint without executing anything in it.

    Args:
        path (str): any address detectron2's PathManager knows.

    Returns:
        dict: the file's contents, on the CPU.

    Raises:
        CheckpointError: the file is missing, truncated, or not a checkpoint.
        UnsafeStructError: it holds a pickled module.
    """
    from detectron2.utils.file_io import PathManager

    try:
        local = PathManager.get_local_path(path)
        with open(local, "rb"):
            pass
    except Exception as error:  # each PathManager handler raises errors of its own
        raise CheckpointError(
            f"cannot open the model file {path!r} ({first_line(error)}): check MODEL.WEIGHTS."
        ) from None
    try:
        checkpoint = torch.load(local, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch all have errors of their own
        refuse_pickled_module(local, path)
        raise CheckpointError(
            f"cannot read {path!r} as a checkpoint ({first_line(error)}): the file is truncated "
            "or not a PyTorch file; copy it again."
        ) from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path!r} holds a {type(checkpoint).__name__}, not a checkpoint.")
    return checkpoint


def refuse_pickled_module(local, path):
    """Raise UnsafeStructError if a file can only be read by executing what is in it."""
    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(local)
    except Exception:  # not a zip file at all: the caller's own error says more
        return
    if classes:
        raise UnsafeStructError(
            f"{path!r} holds pickled objects ({classes[0]}, …), and reading them executes code: "
            f"if you trust the file, run `blendprune convert --allow-pickle {path} OUTPUT.pth` "
            "and use OUTPUT.pth."
        )


def refuse_other_widths(checkpoint, model):
    """Refuse the weights of a pruned model for a model of other widths.

    fvcore would drop them with a warning and leave random weights.

    Args:
        checkpoint (dict): with ``"model"``, and ``"struct"`` if it was saved under the overlay.
        model (nn.Module): what it is about to be loaded into.

    Raises:
        CheckpointError: the checkpoint is of a pruned model, and a tensor has another shape.
    """
    struct = checkpoint.get("struct")
    if not isinstance(struct, dict) or struct.get("format") != FORMAT:
        return
    if not is_pruned(validate(struct)):
        return
    current = model.state_dict()
    for key, value in checkpoint["model"].items():
        if key in current and tuple(current[key].shape) != tuple(value.shape):
            raise CheckpointError(
                f"the checkpoint holds a pruned model ({struct['size'] / 1e6:.1f} M of "
                f"{struct['dense_size'] / 1e6:.1f} M numbers; {key} is {tuple(value.shape)}), but "
                f"the model it is loaded into has {tuple(current[key].shape)}: set MODEL.FINETUNE "
                "True and MODEL.WEIGHTS to this checkpoint, or call blendprune.load(path)."
            )


def convert(path, output, *, allow_pickle=False):
    """Rewrite a checkpoint whose ``"struct"`` is a pickled module in the plain form.

    Args:
        path (str): a checkpoint of a hand-patched fork; any address PathManager knows.
        output (str): the file to write.
        allow_pickle (bool): say True only for a file you trust: reading it executes code.

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
            raise CheckpointError(f"cannot read {path!r} ({first_line(error)}).") from None
    struct = checkpoint.get("struct")
    if isinstance(struct, nn.Module):
        checkpoint["struct"] = structure_of(struct)
        checkpoint["model"] = struct.state_dict()
    else:
        validate(struct)
    save_atomically(checkpoint, output)


def save_atomically(obj, path):
    """Save with ``torch.save``, so that ``path`` never holds an incomplete file."""
    from detectron2.utils.file_io import PathManager

    with staged(path) as [partial], PathManager.open(partial, "wb") as file:
        torch.save(obj, file)


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


def _build_dense(struct, device, path):
    from detectron2.config import CfgNode, get_cfg
    from detectron2.modeling import build_model

    from . import modeling
    from .config import add_prune_config

    if not struct["config"]:
        raise StructError(f"{path} carries no config: pass the dense model, load(path, model=…).")
    modeling.register()
    cfg = get_cfg()
    add_prune_config(cfg)
    cfg.set_new_allowed(True)
    try:
        cfg.merge_from_other_cfg(CfgNode.load_cfg(struct["config"]))
    except Exception as error:  # yaml and yacs have many
        raise StructError(f"the config in {path} cannot be read ({first_line(error)}).") from None
    if device is None:
        absent = cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available()
        device = "cpu" if absent else cfg.MODEL.DEVICE
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.PRUNE = cfg.MODEL.FINETUNE = False
    cfg.MODEL.WEIGHTS = ""
    if cfg.MODEL.META_ARCHITECTURE != struct["meta_architecture"]:
        raise StructError(
            f"the config in {path} builds a {cfg.MODEL.META_ARCHITECTURE}, but its structure is of "
            f"a {struct['meta_architecture']}: the file was altered."
        )
    model = build_model(cfg)
    remember(model, cfg)
    return model


def _struct_in(checkpoint, path):
    if "struct" not in checkpoint:
        raise StructError(
            f'{path!r} has no "struct": save it with blendprune.apply() in effect, or set '
            "MODEL.FINETUNE False to load a dense model."
        )
    return validate(checkpoint["struct"])


def first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
