"""The forms that this room makes of a model: deployed, half precision, compiled, exported."""

import functools
import os

import torch
from torch import nn

from ...errors import ConfigError
from ...pruning.cost.forms import FORMS, Form, run_network
from ..deploy import deploy


def _deployed(model, inputs, options, **how):
    return deploy(model, inputs, **how)


def _deployed_layer(layer, x, options, dtype=torch.float32):
    if isinstance(layer, nn.BatchNorm2d):
        return None  # it is folded
    how = {"memory_format": torch.channels_last} if x.dim() == 4 else {}
    layer, x = layer.to(dtype, **how), x.to(dtype, **how)
    return lambda: layer(x)


def _exported(model, inputs, options, **how):
    """Path of the exported model; the first call with this folder exports it."""
    from ..export import export

    path = os.path.join(options.folder, "_".join(["model", *how]) + ".onnx")
    if not os.path.exists(path):
        export(model, path, inputs, **how)
    return path


def _in_engine(model, inputs, options, engine, int8=False):
    from ..runtime import load

    how = {"int8": True, "data": options.data} if int8 else {}
    return load(_exported(model, inputs, options, **how), engine, threads=options.threads)


def _layer_in_engine(layer, x, options, engine):
    from ..export.single_layer import write_layer
    from ..runtime.engines import ENGINES

    if isinstance(layer, nn.BatchNorm2d):
        return None  # it is folded
    path = os.path.join(options.folder, "layer.onnx")
    names = write_layer(layer, x, path)
    loaded = ENGINES[engine](path, names, options.threads)
    return functools.partial(loaded.run, {names.inputs[0]: x.cpu().numpy()})


def _run_cores(detector, inputs):
    detector.run_cores(inputs)


def _add(name, layer=_deployed_layer, **how):
    FORMS.register(Form(name, functools.partial(_deployed, **how), run_network, layer))


_add("deployed")
for _dtype in (torch.bfloat16, torch.float16):
    _layer = functools.partial(_deployed_layer, dtype=_dtype)
    _add(str(_dtype).removeprefix("torch."), _layer, dtype=_dtype)
_add("compiled", compile=True)
for _name in ("onnxruntime", "openvino"):
    _make = functools.partial(_in_engine, engine=_name)
    _layer = functools.partial(_layer_in_engine, engine=_name)
    FORMS.register(Form(_name, _make, _run_cores, _layer))
    _make = functools.partial(_in_engine, engine=_name, int8=True)
    FORMS.register(Form(f"{_name}-int8", _make, _run_cores))


def check_forms(forms):
    """Refuse names that are no forms.

    Args:
        forms (Iterable[str]): names.

    Returns:
        list[str]: without repetitions.

    Raises:
        ConfigError: a name is unknown.
    """
    known = [name for name, _ in FORMS]
    for name in forms:
        if name not in known:
            raise ConfigError(f"there is no form {name!r}: choose among {', '.join(known)}")
    return list(dict.fromkeys(forms))
