"""The latency of the dense and the pruned model in each form, for the report."""

import contextlib
import functools
import os
import statistics
import tempfile

import torch

from ..errors import error_line
from ..pruning.cost.forms import FormOptions, forms
from ..pruning.cost.latency import time_in_turns
from ..pruning.graph.inputs import config_inputs
from .evaluation import first_images

_RUNS, _WARMUP = 7, 1


def timing_inputs(cfg, model):
    """What models are timed on: with an image of the data, decoding has what it has to do there.

    Args:
        cfg (CfgNode): DATASETS.TEST names the data set.
        model (nn.Module): built from it.

    Returns:
        tuple[list[dict], str]: one image, and which it is, in words: the first one of the test set,
        or random pixels where that cannot be read or is not all that the model needs.
    """
    if not cfg.MODEL.LOAD_PROPOSALS:
        with contextlib.suppress(Exception):  # of loaders: many
            [image] = first_images(cfg, 1)
            return [{"image": image}], f"the first image of {cfg.DATASETS.TEST[0]}"
    return random_inputs(model)


def random_inputs(model):
    """As :func:`timing_inputs`, without the test set."""
    return config_inputs(model), "random pixels"


def form_latencies(models, inputs, names):
    """Time whole inferences, images to instances; all models and forms take turns.

    Args:
        models (dict[str, nn.Module]): by name; they stay unchanged.
        inputs (list[dict]): detectron2's format.
        names (Iterable[str]): of the forms; see :func:`blendprune.bench`.

    Returns:
        tuple[dict[str, dict[str, float]], list[str]]: form → model → milliseconds, and a sentence
        for each form that a model cannot take.
    """
    calls, notes = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys(names):
            form = forms().get(name)
            try:
                for key, model in models.items():
                    options = FormOptions(os.path.join(folder, key), torch.get_num_threads())
                    made = form.of(model, inputs, options)
                    with torch.no_grad():
                        made(inputs)
                    calls[name, key] = functools.partial(made, inputs)
            except Exception as error:  # of compilers and engines: many
                calls = {key: call for key, call in calls.items() if key[0] != name}
                notes.append(f"latency as {name} was not measured ({error_line(error)})")
        with torch.no_grad():
            times = time_in_turns(calls, _RUNS, _WARMUP)
    found = {}
    for (name, key), each in times.items():
        found.setdefault(name, {})[key] = round(statistics.median(each), 3)
    return found, notes
