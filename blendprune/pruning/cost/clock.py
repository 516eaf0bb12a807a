"""The latency of a model, in the form that is shipped, against that of the dense model."""

import functools
import os
import statistics
import tempfile
from dataclasses import replace

import torch

from ..tracing.hooks import evaluating
from .cost_model import Timing
from .forms import FormOptions, run_network, runtime_form
from .latency import paired_ratio, ratio_error, time_in_turns
from .layer_times import measure_layers

# Pairs of calls that are timed at once, at most, and until their ratio is known so well.
_RUNS, _MOST, _ERROR = 11, 33, 0.02


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
        step (int): widths are multiples of it where layers are wide enough.

    Attributes:
        ms (dict[str, float]): milliseconds of the dense model (``"before"``) and of the one that
            was timed last (``"after"``).
        timing (Timing): of the latter, with the times of its layers at other widths.

    Raises:
        ConfigError: there is no such form.
        DeployError: the model cannot be brought into it, or a package is missing.
    """

    def __init__(self, runtime, model, inputs, step):
        self._form, self._inputs = runtime_form(runtime), inputs
        self._folder = tempfile.TemporaryDirectory()
        self._made = 0
        self._dense = self._make(model)
        calls = {"all": lambda: self._dense(inputs), "network": self._network_of(self._dense)}
        times = self._times(calls)
        ms = statistics.median(times["all"])
        share = paired_ratio(times["network"], times["all"])
        # The heads may run on more regions in the network alone.
        around, ms = max(0.0, 1 - share) * ms, max(1.0, share) * ms
        self.ms = {"before": ms, "after": ms}
        self.timing = Timing(self._layers(model, step), ms, around)

    def __call__(self, model):
        """Time a model and the dense one in turns, and remember it.

        Args:
            model (nn.Module): a pruned one.

        Returns:
            float: its latency as a fraction of the dense model's.
        """
        networks = {"before": self._dense, "after": self._make(model)}
        times = self._times({name: self._network_of(made) for name, made in networks.items()})
        kept = paired_ratio(times["after"], times["before"])
        dense, around = statistics.median(times["before"]), self.timing.fixed_ms
        self.ms = {"before": round(dense + around, 3), "after": round(kept * dense + around, 3)}
        self.timing = replace(self.timing, ms=self.ms["after"])
        return self.ratio

    @property
    def ratio(self):
        """Latency of the model that was timed last, as a fraction of the dense model's."""
        return self.ms["after"] / self.ms["before"]

    def _layers(self, model, step):
        with evaluating(model):
            return measure_layers(
                model,
                functools.partial(run_network, model, self._inputs),
                self._form,
                self._options(),
                step,
            )

    def _network_of(self, made):
        return functools.partial(self._form.network, made, self._inputs)

    @staticmethod
    def _times(calls):
        """Times of two functions in turns, until their ratio is known well."""
        times = {name: [] for name in calls}
        first, second = times.values()
        while len(first) < _MOST and ratio_error(first, second) > _ERROR:
            with torch.no_grad():
                for name, more in time_in_turns(calls, _RUNS, warmup=1).items():
                    times[name] += more
        return times

    def _make(self, model):
        self._made += 1
        return self._form.of(model, self._inputs, self._options(str(self._made)))

    def _options(self, name=""):
        return FormOptions(os.path.join(self._folder.name, name), torch.get_num_threads())
