"""Two runs of a model compared, layer by layer."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from ..tracing.composite import CompositeOperator
from ..tracing.hooks import exact_float32, forward_hooks
from ..tracing.layer_kinds import is_prunable_layer

# Relative to the largest output of a layer: rounding is far below, a wrong channel far above.
_TOLERANCE = 1e-3
# Relative size of the noise that stands for rounding, and how much more a difference must be.
_NOISE, _ABOVE_NOISE = 1e-6, 100


@dataclass
class Run:
    """What the layers of a model gave in one forward.

    Attributes:
        outputs (list[tuple[nn.Module, Tensor]]): of each call of a conv or linear, scaled.
        factors (list[Tensor]): by which they were scaled.
        returned (list[Tensor]): maps that the forward returned.
        error (Exception | None): why it broke off.
        last (nn.Module | None): the module without children that began last.
        inside (bool): whether it had not ended yet.
    """

    outputs: list = field(default_factory=list)
    factors: list = field(default_factory=list)
    returned: list = field(default_factory=list)
    error: Exception | None = None
    last: nn.Module | None = None
    inside: bool = False


class Difference(NamedTuple):
    """Where two runs part.

    Attributes:
        layer (nn.Module | None): the first that gives something else, or the last that ran when an
            exception came; None for what the forward returns.
        error (Exception | None): the exception.
        inside (bool): whether it came in the layer, not behind it.
    """

    layer: nn.Module | None
    error: Exception | None = None
    inside: bool = True


class Recorder:
    """Runs a model and records what its convs and linears give.

    Each output is scaled to unit size, by a factor that a second run takes over. So no difference
    hides where random weights let a deep model overflow or vanish. And each position is moved by a
    random number, the same for all channels and all runs: so a channel that decides by its sign
    decides both ways.

    Args:
        model (nn.Module): in eval mode; inside the prunable view, where each layer is compared
            alone.
        layers (Iterable[nn.Module]): what to record; None: all convs and linears.
    """

    def __init__(self, model, layers=None):
        composites = [m for m in model.modules() if isinstance(m, CompositeOperator)]
        inside = set().union(*(composite.inner_modules() for composite in composites))
        layers = filter(is_prunable_layer, model.modules()) if layers is None else layers
        self._layers = [m for m in layers if m not in inside]
        self._leaves = [m for m in model.modules() if not m._modules and m not in inside]

    def __call__(self, forward, like=None, noise=False):
        """Run once.

        Args:
            forward (Callable): runs the model.
            like (Run): a run of the same forward, whose factors count.
            noise (bool): change each output a little, as rounding does.

        Returns:
            Run: up to an exception, if one came.
        """
        run, random = Run(), torch.Generator().manual_seed(0)
        given = iter(like.factors if like is not None else ())

        def begin(layer, inputs):
            run.last, run.inside = layer, True

        def end(layer, inputs, output):
            run.inside = False

        def record(layer, inputs, output):
            if not isinstance(output, torch.Tensor):
                return None
            factor = next(given, None)
            if factor is None:
                factor = 1 / output.square().mean().sqrt()
                factor = torch.where(factor.isfinite(), factor, 1)
            if noise:
                factor = factor * (
                    1 + _NOISE * torch.randn(output.shape, generator=random).to(output)
                )
            scaled = as_recorded(layer, output, factor)
            run.factors.append(factor)
            # What comes behind may write into it.
            run.outputs.append((layer, scaled.clone()))
            return scaled

        with (
            exact_float32(),
            forward_hooks(self._leaves, begin, before=True),
            forward_hooks(self._leaves, end),
            forward_hooks(self._layers, record),
        ):
            try:
                run.returned = list(maps_of(forward()))
            except Exception as error:
                run.error = error
        return run


def as_recorded(layer, output, factor):
    """An output as a :class:`Recorder` scales and moves it.

    Args:
        layer (nn.Module): a conv, linear or norm.
        output (Tensor): what it gives.
        factor (Tensor): of its run, or of another one.

    Returns:
        Tensor: of the same shape.
    """
    shape = list(output.shape)
    if len(shape) > 1:
        shape[_channel_dim(layer)] = 1
    # A number for every position, whichever channels there are.
    random = torch.Generator().manual_seed(len(shape))
    return output * factor + torch.randn(shape, generator=random).to(output)


def _channel_dim(layer):
    return -1 if isinstance(layer, nn.Linear) else 1


def first_difference(dense, pruned, kept, rounded=None):
    """Where a pruned model parts from the dense one with the same channels masked.

    Args:
        dense (Run): of the dense model.
        pruned (Run): of the pruned one.
        kept (dict[nn.Module, Tensor]): of layers that lost outputs, the numbers of the others.
        rounded (Run): of the dense model with noise; what differs there, too, does not count.

    Returns:
        Difference | None: None if they agree to rounding.
    """

    def moved(a, b, noisy):
        difference = distance(a, b)
        limit = _TOLERANCE if noisy is None else _ABOVE_NOISE * max(distance(a, noisy), _NOISE)
        return difference > max(_TOLERANCE, limit)

    for number, ((layer, a), (other, b)) in enumerate(zip(dense.outputs, pruned.outputs)):
        noisy = _output(rounded, number, layer)
        if layer is not other:
            # A decision fell the other way, as it also does with noise.
            return None if rounded is not None and noisy is None else Difference(layer)
        if layer in kept:
            dim = _channel_dim(layer)
            a = a.index_select(dim, kept[layer])
            noisy = None if noisy is None else noisy.index_select(dim, kept[layer])
        if rounded is not None and noisy is None:
            return None
        if moved(a, b, noisy):
            return Difference(layer)
    if pruned.error is not None and dense.error is None:
        return Difference(pruned.last, pruned.error, pruned.inside)
    if len(dense.outputs) != len(pruned.outputs):
        if rounded is not None and len(rounded.outputs) != len(dense.outputs):
            return None
        return Difference(pruned.last, pruned.error, pruned.inside)
    noisy = rounded.returned if rounded is not None else [None] * len(dense.returned)
    for a, b, c in zip(dense.returned, pruned.returned, noisy):
        # Features that are returned may be narrower.
        if a.shape == b.shape and moved(a, b, c):
            return Difference(None)
    return None


def make_lively(model):
    """Give weights that are zero, or not finite, values that let a difference through.

    Layers that start at zero (offsets, the last norm of a residual block, the factor of an
    attention branch) would hide what goes wrong behind them. So would single channels that sparse
    training or a mask has silenced.

    Args:
        model (nn.Module): its parameters are replaced, not changed.
    """
    random, renewed = torch.Generator().manual_seed(0), {}
    for module in model.modules():
        layer = is_prunable_layer(module)
        for name, p in module._parameters.items():
            if p is None or not p.is_floating_point() or p.numel() == 0 or name == "bias":
                continue
            if p not in renewed:
                renewed[p] = _lively(p.detach(), layer, random)
            if renewed[p] is not None:
                module._parameters[name] = renewed[p]


# Smaller numbers than this fraction of the largest are as good as zero.
_SILENT = 1e-2


def _lively(p, layer, random):
    """A parameter without silent channels; None if it has none."""
    channels = _sizes_of_channels(p.abs())
    largest = max(float(each.max()) for each in channels)
    if not (0 if layer else _SILENT) < largest < float("inf"):
        value = torch.rand(p.shape, generator=random) - (0.5 if layer else -0.5)
        return nn.Parameter(value.to(p))
    silent = [each < _SILENT * largest for each in channels]
    if not any(each.any() for each in silent):
        return None
    value = largest * (torch.rand(p.shape, generator=random) - (0.5 if layer else 0)).to(p)
    for dim, each in enumerate(silent):
        p = torch.where(each.view([-1] + [1] * (p.dim() - 1 - dim)), value, p)
    return nn.Parameter(p)


def _sizes_of_channels(sizes):
    """Largest of these numbers in each channel, along the first dimension and the second."""
    if sizes.dim() < 2:
        return [sizes]
    sizes = sizes.flatten(2).amax(2) if sizes.dim() > 2 else sizes
    return [sizes.amax(1), sizes.amax(0)]


def _output(run, number, layer):
    """The output of a call of the same layer; None if there is none."""
    if run is None or number >= len(run.outputs) or run.outputs[number][0] is not layer:
        return None
    return run.outputs[number][1]


def distance(a, b):
    """Largest difference of two tensors, relative to the largest number of ``a``.

    It is infinite for other shapes, or if other numbers are not finite.
    """
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return float("inf")
    a, b = (torch.where(finite, x, 0) for x in (a, b))
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-20))


def maps_of(value):
    """Floating-point tensors in plain containers; detections depend on thresholds and order."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from maps_of(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from maps_of(each)
