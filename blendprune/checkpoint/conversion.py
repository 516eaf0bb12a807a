"""Rewriting checkpoints of other tools and of old forks in the plain form."""

import torch
from torch import nn

from ..errors import CheckpointError, UnsafeStructError
from ..files import save_atomically
from ..structure import structure_of
from ..wrappers import plain_names, plain_state
from .reading import OTHER_WEIGHTS, local_path, refuse_pickled_module, struct_in, unreadable
from .unpickling import (
    Inert,
    is_module,
    plain,
    read_inert,
    refuse_archive,
    without_attributes,
)

# What a training module, for example Lightning's, puts before each name.
_PREFIX = "model."
_PARALLEL = ("DataParallel", "DistributedDataParallel")


def convert(path: str, output: str, *, allow_pickle: bool = False) -> list[str]:
    """Rewrite a checkpoint so that it loads without unpickling, here and with detectron2 alone.

    It may be a dict with the weights under one of the usual names, a bare state dict, a whole model
    (``torch.save(model)``), or a fork's file whose ``"struct"`` is a pickled module. Numbers and
    arrays of numpy become Python's and tensors. The weights get the names that the model has
    without wrappers. Of a whole model the structure is written, too.

    Args:
        path (str): any path PathManager reads.
        output (str): the file to write.
        allow_pickle (bool): allow unpickling a module, which executes code. Only for files you
            trust. If its classes are missing here, what the file says of it is used.

    Returns:
        list[str]: what was left out because it is no plain data, with its class.

    Raises:
        UnsafeStructError: ``allow_pickle`` is False and the file has a pickled module.
        CheckpointError: the file cannot be read, or has no weights.
    """
    contents = _read(local_path(path), path, allow_pickle)
    try:
        found, left_out = _converted(contents, path)
    except RecursionError as error:
        raise unreadable(path, error) from None
    save_atomically(found, output)
    return left_out


def _converted(contents, path):
    """What the new file holds, and what is left out."""
    if is_module(contents):
        contents = {"struct": contents}
    if not isinstance(contents, dict):
        raise _without_weights(path)
    module = next((x for key in ("struct", *_NAMES) if is_module(x := contents.get(key))), None)
    if module is not None:
        module = _as_module(module)
        found = {"model": plain_state(module), "struct": structure_of(module)}
        rest = {k: x for k, x in contents.items() if not is_module(x) and k not in found}
    else:
        key = next((k for k in _NAMES if _tensors(contents.get(k))), None)
        found = {"model": _renamed(_tensors(contents if key is None else contents[key]))}
        struct = struct_in(contents)
        if struct is not None:
            found["struct"] = struct
        rest = {k: x for k, x in contents.items() if k not in (key, "struct", *found["model"])}
    if not found["model"]:
        raise _without_weights(path)
    left_out = []
    for key, value in rest.items():
        value, gone = plain(value)
        left_out += [f"{key} ({kind})" for kind in gone]
        if value is not None or not gone:
            found[key] = value
    return found, left_out


_NAMES = ("model", *OTHER_WEIGHTS)


def _read(local, path, allow_pickle):
    try:
        refuse_archive(local)
    except Exception as error:  # zip and torch raise different types
        raise unreadable(path, error) from None
    try:
        contents = torch.load(local, map_location="cpu", weights_only=True)
        without_attributes(contents)
        return contents
    except Exception:  # zip, pickle and torch raise different types
        pass
    try:
        contents = read_inert(local)
    except Exception as error:
        raise unreadable(path, error) from None
    try:
        refuse_pickled_module(contents, path)
    except UnsafeStructError:
        if not allow_pickle:
            raise
        try:
            return torch.load(local, map_location="cpu", weights_only=False)
        except Exception:  # its classes are missing, or want other versions
            pass
    return contents


def _without_weights(path):
    return CheckpointError(
        f"{path!r} has no weights: neither is it a model or a state dict, nor is there one under "
        f"{', '.join(map(repr, _NAMES))}; save it again with torch.save({{'model': "
        "model.state_dict()}, path)."
    )


def _tensors(value):
    """The tensors of a state dict."""
    value, _ = plain(value)
    items = value.items() if isinstance(value, dict) else ()
    return {key: x for key, x in items if isinstance(x, torch.Tensor) and isinstance(key, str)}


def _renamed(weights):
    names = plain_names(weights)
    if names and all(name.startswith(_PREFIX) for name in names.values()):
        names = {key: name[len(_PREFIX) :] for key, name in names.items()}
    return {names[key]: value for key, value in weights.items()}


def _as_module(value):
    """A module as it is, or an empty one with the tensors and widths of an inert one."""
    if not isinstance(value, Inert):
        return value
    state, name = value.state, value.path.rpartition(".")[2]
    children = {key: x for key, x in state["_modules"].items() if x is not None}
    if name in _PARALLEL and list(children) == ["module"]:
        return _as_module(children["module"])
    shell = type(name, (nn.Module,), {})()
    for key, attribute in state.items():
        if key not in vars(shell):
            attribute, gone = plain(attribute)
            if not gone:
                vars(shell)[key] = attribute
    shell._parameters.update(state["_parameters"])
    shell._buffers.update(state["_buffers"])
    shell._non_persistent_buffers_set = set(state.get("_non_persistent_buffers_set", ()))
    for key, child in children.items():
        shell.add_module(key, _as_module(child))
    return shell
