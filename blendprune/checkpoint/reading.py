"""Checkpoints with a structure, read safely."""

import hashlib
import logging
import pickle
import weakref

import torch

from ..checks import shown
from ..config import prune_mode, prunes_in_script
from ..errors import CheckpointError, StructError, UnsafeStructError, first_line
from ..structure import is_pruned, structure_of, validate
from ..structure.shapes import contradiction
from ..wrappers import is_compiled, plain_names, plain_state, unwrap
from .unpickling import is_module, plain, read_inert, refuse_archive, without_attributes

_log = logging.getLogger(__name__)
_more = weakref.WeakKeyDictionary()  # model → function, see also_save

#: Where other tools have the weights; detectron2 has them under "model".
OTHER_WEIGHTS = ("state_dict", "model_state_dict", "model_state", "net", "network", "weights")


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
        checkpoint that gives the widths, for
        :func:`blendprune.checkpoint.loading.restructure_from`. A script that prunes takes those of
        a pruned file at MODEL.WEIGHTS, so that a pruned model can be pruned again.

    Raises:
        ConfigError: as for :func:`blendprune.config.prune_mode`.
        CheckpointError: MODEL.FINETUNE is True, and the file cannot be read.
        StructError: MODEL.FINETUNE is True, and the structure is malformed.
    """
    if not hasattr(getattr(cfg, "MODEL", None), "get"):
        return False, None
    prune, finetune = prune_mode(cfg)
    if finetune:
        checkpoint = read_checkpoint(cfg.MODEL.WEIGHTS)
        _refuse_other_prune(cfg, checkpoint)
        return False, checkpoint
    if prunes_in_script(cfg):
        return False, _pruned_checkpoint(cfg.MODEL.WEIGHTS.partition("?")[0])
    return prune, None


def _refuse_other_prune(cfg, checkpoint):
    """Refuse a config and a pruned checkpoint that two prunes have written."""
    wanted, found = cfg.PRUNER.get("CHECKPOINT_ID", ""), checkpoint.get("checkpoint_id")
    if wanted and found and wanted != found:
        raise CheckpointError(
            f"the config was written with another checkpoint than {cfg.MODEL.WEIGHTS!r} "
            f"(PRUNER.CHECKPOINT_ID {wanted}, not {found}): a later prune into this folder was "
            'interrupted. Prune again, or set PRUNER.CHECKPOINT_ID "" to use them together.'
        )


def checkpoint_id(weights):
    """An id of a pruned checkpoint, by which the files beside it name it.

    Args:
        weights (dict[str, Tensor]): a state dict.

    Returns:
        str: ``sha256-`` and 16 hexadecimal digits; the same for the same weights.
    """
    sha = hashlib.sha256()
    for name, value in weights.items():
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    # Digits alone may look like a number, 00e8478179053984, which configs read as one.
    return f"sha256-{sha.hexdigest()[:16]}"


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
        StructError: it is malformed, or of other widths than the weights.
    """
    struct = checkpoint.get("struct")
    kind = struct.get("format") if isinstance(struct, dict) else None
    if not (isinstance(kind, str) and kind.startswith("blendprune")):
        return None
    struct = validate(struct)
    if odd := contradiction(struct, weights_in(checkpoint)):
        raise StructError(
            f'the "struct" is not that of the weights beside it ({odd}): save the model with '
            'DetectionCheckpointer, or delete "struct" from the file, and the weights give the '
            "widths."
        )
    return struct


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

    Raises:
        CheckpointError: a name is no str.
    """
    weights = checkpoint.get("model", checkpoint)
    weights = weights if isinstance(weights, dict) else {}
    odd = next((key for key in weights if not isinstance(key, str)), None)
    if odd is not None:
        raise CheckpointError(
            f"the weights have the name {shown(odd)}, which is no text: name a checkpoint that "
            "detectron2 saved."
        )
    return weights


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
    local = local_path(path)
    try:
        refuse_archive(local)
    except Exception as error:  # zip and torch raise different types
        raise unreadable(path, error) from None
    try:
        checkpoint = torch.load(local, map_location="cpu", weights_only=True)
    except Exception:  # zip, pickle and torch raise different types
        checkpoint = read_plain(local, path)
    try:
        without_attributes(checkpoint)
    except pickle.UnpicklingError as error:
        raise unreadable(path, error) from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{path!r} contains a {type(checkpoint).__name__}, not a dict: name a checkpoint that "
            "detectron2 saved."
        )
    other = next((key for key in OTHER_WEIGHTS if isinstance(checkpoint.get(key), dict)), None)
    if other and "model" not in checkpoint:
        raise CheckpointError(
            f"{path!r} has its weights under {other!r}, where detectron2 does not look: run "
            f"`blendprune convert {path} OUTPUT.pth` and use OUTPUT.pth."
        )
    return checkpoint


def local_path(path):
    """A file's path on this machine.

    Raises:
        CheckpointError: it cannot be opened.
    """
    from detectron2.utils.file_io import PathManager

    try:
        local = PathManager.get_local_path(path)
        with open(local, "rb"):
            return local
    except Exception as error:  # PathManager's handlers raise many types
        raise CheckpointError(
            f"cannot open the model file {path!r} ({first_line(error)}): check the path (of a "
            "config: MODEL.WEIGHTS)."
        ) from None


def read_plain(local, path):
    """Read a file that ``weights_only=True`` refuses: without executing code, its plain data.

    Args:
        local (str): a file of this machine.
        path (str): the name that the user knows it by.

    Returns:
        object: what the file has, without objects of other classes; a warning says which.

    Raises:
        CheckpointError: the file is truncated, or not a PyTorch file.
        UnsafeStructError: it has a pickled module for weights or for ``"struct"``.
    """
    try:
        contents = read_inert(local)
        checkpoint, gone = plain(contents)
    except Exception as error:  # zip, pickle and torch raise different types
        raise unreadable(path, error) from None
    refuse_pickled_module(contents, path)
    if gone:
        _log.warning("%s: left out objects of other classes: %s", path, ", ".join(gone))
    return checkpoint


def refuse_pickled_module(contents, path):
    """Refuse a file that is a whole model, or has one for weights or for ``"struct"``.

    Args:
        contents (object): from :func:`blendprune.checkpoint.unpickling.read_inert`.
        path (str): the file.

    Raises:
        UnsafeStructError: with what to do.
    """
    parts = [contents]
    if isinstance(contents, dict):
        parts = [contents.get(key) for key in ("struct", "model", *OTHER_WEIGHTS)]
    module = next((part for part in parts if is_module(part)), None)
    if module is not None:
        raise UnsafeStructError(
            f"{path!r} contains a pickled module ({module.path}), and unpickling executes code: "
            f"if you trust the file, run `blendprune convert --allow-pickle {path} OUTPUT.pth` "
            "and use OUTPUT.pth."
        )


def unreadable(path, error):
    """The error for a file that is no checkpoint.

    Returns:
        CheckpointError: to be raised.
    """
    return CheckpointError(
        f"cannot read {path!r} as a checkpoint ({first_line(error)}): the file is truncated "
        "or not a PyTorch file; copy it again."
    )


def also_save(model, function):
    """Let every checkpoint of a model hold more, while a training runs.

    Args:
        model (nn.Module): not wrapped.
        function (Callable): called without arguments when a checkpoint is saved; returns a dict of
            plain data.
    """
    _more[model] = function


def save_no_more(model):
    """End :func:`also_save`."""
    _more.pop(model, None)


def extras(model):
    """What a checkpoint holds of a model beside what fvcore saves.

    Args:
        model (nn.Module): wrapped or not.

    Returns:
        dict: ``"struct"``; and ``"model"`` where ``torch.compile`` adds to the names of the
        weights, with the names that they have without it; and what :func:`also_save` adds.
    """
    found = {"struct": structure_of(model)}
    if any(map(is_compiled, model.modules())):
        found["model"] = plain_state(model)
    more = _more.get(unwrap(model))
    return {**found, **more()} if more else found
