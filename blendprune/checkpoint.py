"""Checkpoints with a structure: read them safely, rebuild models, convert old files."""

import contextlib
import os
import shutil

import torch
from torch import nn

from .config import prune_mode, prunes_in_script
from .errors import CheckpointError, StructError, UnsafeStructError
from .structure import FORMAT, is_pruned, remember, restructure, structure_of, validate


def load(path, *, model=None, device=None):
    """Rebuild a model from a checkpoint alone: first the structure, then the weights (strict).

    Args:
        path (str): a checkpoint saved under the overlay; any path detectron2's PathManager reads.
        model (nn.Module): the dense model, if it was not built from a detectron2 config.
        device (str): defaults to the config's device, or to the CPU if that is absent.

    Returns:
        nn.Module: the model in eval mode.

    Raises:
        CheckpointError: the file is missing, unreadable, or contradicts its own structure.
        StructError: the structure is missing, malformed, or of another model.
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
            "the file was altered; save it again from the original model."
        ) from None
    return model.eval()


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
    return _struct_in(read_checkpoint(path), path)


def build_mode(cfg):
    """How ``MODEL.PRUNE`` and ``MODEL.FINETUNE`` want the model of a config to be built.

    Args:
        cfg (CfgNode): with or without the two keys.

    Returns:
        tuple[bool, dict | None]: whether ``forward`` returns the raw head outputs, and the
        structure that gives the widths. A script that prunes takes those of a pruned file at
        MODEL.WEIGHTS, so that a pruned model can be pruned again.

    Raises:
        ConfigError: as for :func:`blendprune.config.prune_mode`.
        CheckpointError: MODEL.FINETUNE is True, and the file cannot be read.
        StructError: MODEL.FINETUNE is True, and the structure is missing or malformed.
    """
    prune, finetune = prune_mode(cfg)
    if finetune:
        return False, read_struct(cfg.MODEL.WEIGHTS)
    if prunes_in_script(cfg):
        return False, _pruned_struct(cfg.MODEL.WEIGHTS.partition("?")[0])
    return prune, None


def _pruned_struct(path):
    # The script loads the file itself, in formats that only upstream reads, too.
    if not path or path.endswith(".pkl"):
        return None
    try:
        struct = read_checkpoint(path).get("struct")
    except CheckpointError:
        return None
    return struct if isinstance(struct, dict) and is_pruned(validate(struct)) else None


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


def refuse_other_widths(checkpoint, model):
    """Refuse to load a pruned checkpoint into a model of other widths.

    fvcore would only warn, skip these weights, and leave random ones.

    Args:
        checkpoint (dict): with ``"model"`` and, if it was saved under the overlay, ``"struct"``.
        model (nn.Module): the model to load it into.

    Raises:
        CheckpointError: the checkpoint is pruned, and a tensor's shape differs.
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
                f"the checkpoint is pruned ({struct['size'] / 1e6:.1f} M of "
                f"{struct['dense_size'] / 1e6:.1f} M values; {key} is {tuple(value.shape)}), but "
                f"the model has {tuple(current[key].shape)}: set MODEL.FINETUNE True and "
                "MODEL.WEIGHTS to this checkpoint, or call blendprune.load(path)."
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
        raise StructError(f"{path} has no config: pass the dense model, load(path, model=…).")
    modeling.register()
    cfg = get_cfg()
    add_prune_config(cfg)
    cfg.set_new_allowed(True)
    try:
        cfg.merge_from_other_cfg(CfgNode.load_cfg(struct["config"]))
    except Exception as error:  # yaml and yacs raise many types
        raise StructError(
            f"the config in {path} cannot be read ({first_line(error)}): pass the dense model, "
            "load(path, model=…)."
        ) from None
    if device is None:
        absent = cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available()
        device = "cpu" if absent else cfg.MODEL.DEVICE
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.PRUNE = cfg.MODEL.FINETUNE = False
    cfg.MODEL.WEIGHTS = ""
    if cfg.MODEL.META_ARCHITECTURE != struct["meta_architecture"]:
        raise StructError(
            f"the config in {path} builds a {cfg.MODEL.META_ARCHITECTURE}, but its structure is of "
            f"a {struct['meta_architecture']}: the file was altered; save it again from the "
            "original model."
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
    """First line of an error's message, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
