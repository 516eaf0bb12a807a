"""The forms of a model: how each is made of the model."""

import copy
import os

import torch
from fvcore.common.registry import Registry

from ...errors import ConfigError
from ..deploy import deploy

FORMS = Registry("FORM")
FORMS.__doc__ = """
Forms to time: functions of a model in eval mode, example inputs, and the options of
:class:`FormOptions`, which return a callable from list[dict] to list[dict].
"""


class FormOptions:
    """What the forms need beside a model.

    Args:
        folder (str): for exported files, which all forms of a model share.
        threads (int): of the engine.
        data (Iterable[list[dict]]): images to calibrate int8 on; None: there are none.
    """

    def __init__(self, folder, threads, data=None):
        self.folder, self.threads, self.data = folder, threads, data

    def exported(self, model, inputs, **how):
        """Path of the exported model; the first call exports it.

        Args:
            model (nn.Module): in eval mode.
            inputs (list[dict]): detectron2's format.
            how: more arguments of ``blendprune.export``.
        """
        from ..export import export

        name = "_".join(["model", *how])
        path = os.path.join(self.folder, f"{name}.onnx")
        if not os.path.exists(path):
            export(model, path, inputs, **how)
        return path


@FORMS.register()
def eager(model, inputs, options):
    """The model itself."""
    return copy.deepcopy(model)


@FORMS.register()
def deployed(model, inputs, options):
    """``blendprune.deploy``: folded norms, channels_last."""
    return deploy(model, inputs)


@FORMS.register()
def bfloat16(model, inputs, options):
    """Deployed, in bfloat16."""
    return deploy(model, inputs, dtype=torch.bfloat16)


@FORMS.register()
def float16(model, inputs, options):
    """Deployed, in float16."""
    return deploy(model, inputs, dtype=torch.float16)


@FORMS.register()
def compiled(model, inputs, options):
    """Deployed, with a compiled tensor core."""
    return deploy(model, inputs, compile=True)


def _engine(engine, int8):
    def form(model, inputs, options):
        from ..runtime import load

        how = {}
        if int8:
            how = {"int8": True, "data": options.data}
        return load(options.exported(model, inputs, **how), engine, threads=options.threads)

    form.__name__ = f"{engine}-int8" if int8 else engine
    form.__doc__ = f"Exported{', in int8' if int8 else ''}, run by {engine}."
    return form


for _name in ("onnxruntime", "openvino"):
    FORMS.register(_engine(_name, int8=False))
    FORMS.register(_engine(_name, int8=True))


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
