"""The latency of a model, in the form that is shipped, against that of the dense model."""

import functools
import os
import statistics
import tempfile

import torch

from ..tracing.hooks import evaluating
from .forms import FormOptions, run_network, runtime_form
from .latency import time_in_turns
from .layer_times import measure_layers

_RUNS, _WARMUP = 9, 1


class FormClock:
    """Times inference in one form: the network, and what the dense model takes around it.

    How long decoding, NMS and masks take depends on what is detected. A model in the midst of its
    pruning detects other things than once it is fine-tuned. So of both models the network is timed,
    on as many regions as the config allows; what the dense model takes beyond its network, if
    anything, counts for both.

    Args:
        runtime (str): name of the form.
        model (nn.Module): the dense one; it stays unchanged.
        inputs (list[dict]): detectron2's format.

    Attributes:
        dense_ms (float): of the dense model.
        around_ms (float): what it takes beyond its network.

    Raises:
        ConfigError: there is no such form.
        DeployError: the model cannot be brought into it, or a package is missing.
    """

    def __init__(self, runtime, model, inputs):
        self.form, self._inputs = runtime_form(runtime), inputs
        self._folder = tempfile.TemporaryDirectory()
        self._made = 0
        self._dense = self._make(model)
        calls = {"all": lambda: self._dense(inputs), "network": self._network_of(self._dense)}
        times = self._medians(calls)
        self.around_ms = max(0.0, times["all"] - times["network"])
        self.dense_ms = times["network"] + self.around_ms

    def __call__(self, model):
        """Time a model and the dense one in turns.

        Args:
            model (nn.Module): a pruned one.

        Returns:
            dict[str, float]: milliseconds ``"before"`` (the dense model's) and ``"after"``.
        """
        networks = {"before": self._dense, "after": self._make(model)}
        times = self._medians({name: self._network_of(made) for name, made in networks.items()})
        return {name: round(ms + self.around_ms, 3) for name, ms in times.items()}

    def layers(self, model, step):
        """Time the layers of a model, or read their times.

        Args:
            model (nn.Module): outside the prunable view.
            step (int): see :func:`blendprune.pruning.cost.layer_times.measure_layers`.

        Returns:
            LayerTimes: for all widths up to those of the model.
        """
        with evaluating(model):
            return measure_layers(
                model,
                lambda: run_network(model, self._inputs),
                self.form,
                self._options("layers"),
                step,
            )

    def _network_of(self, made):
        return functools.partial(self.form.network, made, self._inputs)

    def _medians(self, calls):
        with torch.no_grad():
            times = time_in_turns(calls, _RUNS, _WARMUP)
        return {name: statistics.median(each) for name, each in times.items()}

    def _make(self, model):
        self._made += 1
        with evaluating(model):
            made = self.form.make(model, self._inputs, self._options(str(self._made)))
        return made.eval() if isinstance(made, torch.nn.Module) else made

    def _options(self, name):
        folder = os.path.join(self._folder.name, name)
        os.makedirs(folder, exist_ok=True)
        return FormOptions(folder, torch.get_num_threads())
