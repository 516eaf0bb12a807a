"""The measurement: every model in every form, in turns."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...checks import check_count
from ...errors import BlendpruneError, ConfigError, error_line
from ...progress import stage
from ...pruning.cost.count import count_costs, total_costs
from ...pruning.cost.forms import FORMS, FormOptions
from ...pruning.cost.latency import device_name, paired_ratio, quartiles, time_in_turns
from ...pruning.graph.inputs import example_inputs_for
from ...wrappers import given_model
from .forms import check_forms
from .memory import peak_memory


def bench(
    models: Mapping[str, nn.Module],
    example_inputs: list[dict[str, Any]] | None = None,
    *,
    forms: Sequence[str] = ("eager", "deployed"),
    batch_sizes: Sequence[int] = (1,),
    runs: int = 20,
    threads: int | None = None,
    network: bool = False,
    data: Iterable[list[dict[str, Any]]] | None = None,
    evaluate: Callable[[Callable[[list[dict[str, Any]]], list[dict[str, Any]]]], Any] | None = None,
) -> dict[str, Any]:
    """Time models in the forms that they are shipped in.

    All models and forms take turns in one run, and the order is reversed every time: a slow moment
    of the machine affects all of them. A time is that of the whole call, from images to instances:
    preparation, network, decoding, NMS, pasting of masks. A form that does not run here is listed
    with the reason.

    Args:
        models (dict[str, nn.Module]): by name, the dense one first: the others are compared with
            it. They stay unchanged.
        example_inputs (list[dict]): detectron2's format; one image, which a batch repeats. None:
            one random image as the config of the first model has it.
        forms (Sequence[str]): keys of ``FORMS``: ``eager``, ``deployed``, ``bfloat16``,
            ``float16``, ``compiled``, ``onnxruntime``, ``openvino``, ``onnxruntime-int8``,
            ``openvino-int8``.
        batch_sizes (Sequence[int]): images a call.
        runs (int): timed calls of each.
        threads (int): of PyTorch and of the engines; None: PyTorch's present number.
        network (bool): time the network alone, too: neither preparation nor decoding, heads on as
            many regions as the config allows.
        data (Iterable[list[dict]]): batches to calibrate int8 on.
        evaluate (Callable): called with a callable from list[dict] to list[dict], once per model
            and form; returns task → AP.

    Returns:
        dict: ``machine``, ``threads``, ``image`` (its shape), and ``rows``: per model, form and
        batch size ``model``, ``form``, ``batch``, ``ms`` (median) with ``low`` and ``high``
        (quartiles), ``images_per_s``, ``speedup`` (over the first model in its first form) and
        ``speedup_in_form`` (over the first model in the same form), medians over pairs of calls
        that took turns, ``network_ms``, ``network_speedup`` and ``network_speedup_in_form`` with
        ``network``, ``flops`` (as a fraction of the first model's), ``peak_mb`` (what the first
        call took at its peak), ``ap``; or ``error`` in place of the times.

    Raises:
        ConfigError: an argument is invalid.
    """
    forms = _checked(forms, data)
    batch_sizes = [check_count("batch_sizes", n, "pass 1 or more") for n in batch_sizes]
    runs = check_count("runs", runs, "pass 1 or more")
    models = {name: given_model(model) for name, model in dict(models).items()}
    if not (models and forms and batch_sizes):
        raise ConfigError("models, forms and batch_sizes must each name one at least")
    dense, first = next(iter(models.items()))
    inputs = example_inputs_for(first, example_inputs)[:1]
    with _threads(threads) as threads, tempfile.TemporaryDirectory() as folder, torch.no_grad():
        costs = {name: _flops(model, inputs) for name, model in models.items()}
        ready, rows = {}, []
        for number, (name, model) in enumerate(models.items()):
            options = FormOptions(os.path.join(folder, str(number)), threads, data)
            for form in forms:
                stage(f"{name}: {form}")
                row = {"model": name, "form": form, "flops": costs[name] / costs[dense]}
                made = _make(form, model, inputs, options, evaluate, row)
                if made is None:
                    rows.append(row)
                else:
                    ready[name, form] = made, row
        for batch in batch_sizes:
            stage(f"timing, {batch} image{'s' * (batch > 1)} a call")
            rows += _timed(ready, inputs * batch, runs, (dense, forms[0]), network)
    return {
        "machine": device_name(next((p.device for p in first.parameters()), None)),
        "threads": threads,
        "image": list(inputs[0]["image"].shape),
        "runs": runs,
        "rows": rows,
    }


def _checked(forms, data):
    forms = check_forms(forms)
    for form in forms:
        if form.endswith("int8") and data is None:
            raise ConfigError(f"{form} is calibrated on images: pass data= (of a training loader)")
    return forms


def _make(form, model, inputs, options, evaluate, row):
    """Make a form, and run it once; None, with the reason in the row, if that fails."""
    try:
        made = FORMS.get(form).of(model, inputs, options)
        row["peak_mb"] = peak_memory(lambda: made(inputs))
        if evaluate is not None:
            row["ap"] = evaluate(made)
        return made
    except ConfigError:
        raise
    except Exception as error:  # of compilers and engines: many
        row["error"] = str(error) if isinstance(error, BlendpruneError) else error_line(error)
        return None


def _timed(ready, inputs, runs, first, network):
    """A row with times for each of what is ready."""
    whole = _in_turns({key: made for key, (made, _) in ready.items()}, inputs, runs, first)
    alone = {}
    if network:
        networks = {
            key: functools.partial(FORMS.get(key[1]).network, made)
            for key, (made, _) in ready.items()
        }
        alone = _in_turns(networks, inputs, runs, first)
    rows = []
    for key, found in whole.items():
        row = {**ready[key][1], "batch": len(inputs), **found}
        row["images_per_s"] = round(1e3 * row["batch"] / row["ms"], 3)
        for name in ("ms", "speedup", "speedup_in_form"):
            if key in alone:
                row[f"network_{name}"] = alone[key][name]
        rows.append(row)
    return rows


def _in_turns(calls, inputs, runs, first):
    """Times and ratios of what is called with the inputs, by its key: model and form."""
    calls = {key: functools.partial(call, inputs) for key, call in calls.items()}
    times = time_in_turns(calls, runs)
    found = {}
    for (name, form), each in times.items():
        found[name, form] = quartiles(each)
        for key, other in (("speedup", first), ("speedup_in_form", (first[0], form))):
            ratio = round(paired_ratio(times[other], each), 3) if other in times else None
            found[name, form][key] = ratio
    return found


def _flops(model, inputs):
    return total_costs(model, count_costs(model, inputs))["flops"]


@contextlib.contextmanager
def _threads(wanted):
    before = torch.get_num_threads()
    if wanted is not None:
        torch.set_num_threads(check_count("threads", wanted, "leave it out for PyTorch's number"))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
