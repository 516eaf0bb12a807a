"""The forms that a model is shipped in: how each is made, and how one layer runs in it."""

import copy
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from fvcore.common.registry import Registry

from ...errors import ConfigError
from ..graph.forwards import run_stages
from ..tracing.hooks import evaluating

FORMS = Registry("FORM")
FORMS.__doc__ = "Forms that a model is shipped in, by name: each a :class:`Form`."

# What registers the other forms. It lies above this room and is imported when a form is asked for.
_OTHERS = "blendprune.deployment.bench.forms"


@dataclass(frozen=True)
class FormOptions:
    """What the forms need beside a model.

    Attributes:
        folder (str): for exported files, which all forms of a model share.
        threads (int): of an engine.
        data (Iterable[list[dict]]): images to calibrate int8 on; None: there are none.
    """

    folder: str
    threads: int
    data: object = None


@dataclass(frozen=True)
class Form:
    """One way to ship a model.

    Attributes:
        name (str): what the user writes.
        make (Callable): called with a model in eval mode, example inputs and
            :class:`FormOptions`; returns a callable from list[dict] to list[dict].
        network (Callable): called with what ``make`` returns and inputs; runs the network once, up
            to its raw outputs, heads on as many regions as the config allows.
        layer (Callable): called with a layer in eval mode that no one else uses, a tensor for it
            and :class:`FormOptions`; returns a callable without arguments that runs it, or None if
            the form folds such a layer. None: single layers are not timed in this form, and it
            cannot be the form of ``max_latency``.
    """

    name: str
    make: Callable
    network: Callable
    layer: Callable | None = None

    @property
    def __name__(self):  # by which the registry keeps it
        return self.name

    def of(self, model, inputs, options):
        """A model in this form.

        Args:
            model (nn.Module): in any mode; it stays unchanged.
            inputs (list[dict]): detectron2's format.
            options (FormOptions): whose folder is made if needed.

        Returns:
            Callable: from list[dict] to list[dict].
        """
        os.makedirs(options.folder, exist_ok=True)
        with evaluating(model):
            return self.make(model, inputs, options)


def forms():
    """All forms.

    Returns:
        Registry: of :class:`Form`, by name.
    """
    importlib.import_module(_OTHERS)
    return FORMS


def runtime_form(name):
    """The form that a latency is measured in.

    Args:
        name (str): of the form.

    Returns:
        Form: one whose layers can be timed.

    Raises:
        ConfigError: there is no such form.
    """
    if name == "eager":
        return FORMS.get(name)
    known = {form.name: form for _, form in forms() if form.layer is not None}
    if name not in known:
        raise ConfigError(f"there is no runtime {name!r}: choose among {', '.join(known)}")
    return known[name]


def run_network(model, inputs):
    """The network of a form that is a module: without preparation and decoding."""
    run_stages(model, inputs, training_branches=False, all_regions=True)


def _eager(model, inputs, options):
    return copy.deepcopy(model)


def _eager_layer(layer, x, options):
    return lambda: layer(x)


FORMS.register(Form("eager", _eager, run_network, _eager_layer))
