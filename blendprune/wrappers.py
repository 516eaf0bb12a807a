"""Models inside wrappers: DataParallel, DistributedDataParallel, torch.compile."""

import inspect
import logging

from torch import nn

from .errors import ConfigError

_log = logging.getLogger(__name__)

_COMPILED = "_orig_mod"
_PARALLEL = "module."


def unwrap(model):
    """Return the model inside its wrappers.

    Args:
        model (nn.Module): in DataParallel, DistributedDataParallel and what ``torch.compile``
            returns, in any order and number.

    Returns:
        nn.Module: the model itself if nothing wraps it.
    """
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif is_compiled(model):
            model = model._modules[_COMPILED]
        else:
            return model


def given_model(model, changes_widths=False):
    """The model inside the wrappers of what a user passes as a model.

    Args:
        model (nn.Module): wrapped or not.
        changes_widths (bool): warn of a wrapper that was made for the old widths.

    Returns:
        nn.Module: see :func:`unwrap`.

    Raises:
        ConfigError: it is no module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"the model is a {type(model).__name__}: pass the nn.Module, for example from "
            "detectron2's build_model(cfg) or blendprune.load(path)"
        )
    if changes_widths and is_distributed(model):
        _log.warning(
            "the model changes its widths inside its DistributedDataParallel, which was made for "
            "the old ones: wrap model.module anew before training goes on"
        )
    return unwrap(model)


def is_compiled(module):
    """Whether ``torch.compile`` returned this module."""
    # By the name that it gives its only child: to import its class takes seconds.
    return isinstance(module, nn.Module) and _COMPILED in module._modules


def is_distributed(model):
    """Whether a DistributedDataParallel is among the wrappers of a model."""
    return _data_parallel(model) is not None


def wrap_anew(model):
    """Make the DistributedDataParallel around a model again, for the parameters that it now has.

    Its buckets and hooks are made for the parameters that it began with. It stays the same object:
    trainers, evaluations and loops keep references to it. The first process gives all others its
    weights. Call it between two iterations, in every process.

    Args:
        model (nn.Module): wrapped or not; nothing happens without a DistributedDataParallel, or to
            one whose parameters are still those of the model.
    """
    parallel = _data_parallel(model)
    if parallel is None:
        return
    now = list(parallel.module.parameters())
    if [*map(id, parallel._module_parameters)] == [*map(id, now)]:
        return
    kind = nn.parallel.DistributedDataParallel
    # Each argument that it keeps as an attribute of the same name.
    names = inspect.signature(kind.__init__).parameters.keys() - {"self", "module", "device_mesh"}
    arguments = {name: value for name, value in vars(parallel).items() if name in names}
    if not parallel.bucket_bytes_cap_default:
        arguments["bucket_cap_mb"] = parallel.bucket_bytes_cap / 2**20
    tables = {"_parameters", "_buffers", "_modules"}
    kept = {name: vars(parallel)[name] for name in vars(nn.Module()) if name not in tables}
    compressions = parallel._comm_hooks
    # The old hooks on the parameters go with the reducer.
    del parallel.reducer, parallel.logger
    kind.__init__(parallel, parallel.module, **arguments)
    vars(parallel).update(kept)
    for hook, state in compressions:
        parallel.register_comm_hook(state, hook)


def _data_parallel(model):
    """The DistributedDataParallel among the wrappers of a model, or None."""
    while not isinstance(model, nn.parallel.DistributedDataParallel):
        inner = model.module if isinstance(model, nn.DataParallel) else model
        inner = inner._modules[_COMPILED] if is_compiled(inner) else inner
        if inner is model:
            return None
        model = inner
    return model


def plain_name(name):
    """The name of a module or tensor without the parts that ``torch.compile`` adds.

    Args:
        name (str): for example ``"backbone._orig_mod.fpn_output2.weight"``.
    """
    if _COMPILED not in name:
        return name
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def plain_names(names):
    """Names of the tensors of a state dict without those of wrappers.

    Args:
        names (Iterable[str]): all keys of the state dict, of a wrapped model or a plain one.

    Returns:
        dict[str, str]: name → plain name.
    """
    found = {name: plain_name(name) for name in names}
    while found and all(name.startswith(_PARALLEL) for name in found.values()):
        found = {key: name[len(_PARALLEL) :] for key, name in found.items()}
    return found


def plain_state(model):
    """The state dict of a model with the names that it has without wrappers.

    Args:
        model (nn.Module): wrapped or not; parts of it may be compiled, too.

    Returns:
        dict[str, Tensor]: upstream's own state dict if no name differs.
    """
    return _renamed(unwrap(model).state_dict(), plain_name)


def name_as(state, model):
    """Give the weights of a file the names that a model's own state dict has.

    Args:
        state (dict[str, Tensor]): of a wrapped model or a plain one.
        model (nn.Module): wrapped or not.

    Returns:
        dict[str, Tensor]: ``state`` itself if no name differs; unknown names are kept.
    """
    own = {plain: name for name, plain in plain_names(model.state_dict()).items()}
    plain = plain_names(state)
    return _renamed(state, lambda name: own.get(plain[name], plain[name]))


def _renamed(state, rename):
    names = {name: rename(name) for name in state}
    if all(old == new for old, new in names.items()):
        return state
    return {new: state[old] for old, new in names.items()}
