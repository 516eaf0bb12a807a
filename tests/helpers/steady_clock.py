"""A form of a model whose times are given by formulas, and a clock that reads them."""

import contextlib
import copy

from blendprune.pruning.cost import latency
from blendprune.pruning.cost.count import count_flops
from blendprune.pruning.cost.forms import FORMS, Form

_SECONDS_PER_FLOP = 1e-9


class _Made:
    def __init__(self, model, around):
        self.model, self.around = copy.deepcopy(model), around

    def network(self, inputs):
        return _SECONDS_PER_FLOP * sum(count_flops(self.model, inputs).values())

    def __call__(self, inputs):
        return self.network(inputs) + self.around


class SteadyClock:
    """Registers the form ``"steady"`` while the fixture lives.

    The network takes a nanosecond per FLOP, and so does each layer, or what ``price`` says.

    Attributes:
        around (float): seconds of an inference beyond its network.
        price (Callable): from a layer to the factor that it costs more than its FLOPs in the table.
        timed (list): layers that were timed.
    """

    def __init__(self):
        self.around, self.price, self.timed = 0.0, lambda layer: 1.0, []

    @contextlib.contextmanager
    def running(self, monkeypatch, folder):
        """Let everything that blendprune times take what the formulas say."""
        monkeypatch.setenv("FVCORE_CACHE", str(folder))
        monkeypatch.setattr(latency, "_time", lambda call: call())
        form = Form("steady", self._make, lambda made, inputs: made.network(inputs), self._layer)
        FORMS._do_register("steady", form)
        try:
            yield self
        finally:
            del FORMS._obj_map["steady"]

    def _make(self, model, inputs, options):
        return _Made(model, self.around)

    def _layer(self, layer, x, options):
        self.timed.append(layer)
        weight = getattr(layer, "weight", None)
        size = x[0, 0].numel() if x.dim() == 4 else 1
        flops = 2 * x.numel() if weight is None or weight.dim() == 1 else weight.numel() * size
        return lambda: _SECONDS_PER_FLOP * self.price(layer) * flops
