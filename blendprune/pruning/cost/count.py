"""FLOPs, parameters, activations and memory of a model, counted as its operators run.

What is counted is the network up to its raw head outputs, as inference runs it. What follows
(decoding, NMS, pasting masks) depends on the image and is not pruned. Auxiliary heads of the
training do not count. Heads that run per region or per instance count for as many as the config
allows, for any image: RPN.POST_NMS_TOPK_TEST for boxes, TEST.DETECTIONS_PER_IMAGE for
masks and keypoints, FCOS.POST_NMS_TOPK_TEST and SOLOV2.NMS_PRE for AdelaiDet's instances.
"""

import contextlib
from dataclasses import dataclass, field

import numpy as np
import torch
from detectron2.utils.events import EventStorage
from fvcore.nn import parameter_count
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from ...errors import BlendpruneError, PruningError, first_line
from ...wrappers import unwrap
from ..architectures import architecture_of
from ..tracing.hooks import evaluating, forward_hooks
from ..tracing.view import prunable
from .formulas import OPERATORS, PRODUCTS, is_free, module_formula, operator_name
from .live_tensors import LiveTensors
from .regions import RegionHead, region_notes


@dataclass
class Counts:
    """What :func:`count_costs` counted.

    Attributes:
        flops (dict[str, int]): FLOPs of each module, without those of its children.
        activations (dict[str, int]): numbers in the outputs of its convolutions and products.
        uncounted (dict[str, str]): operators without a FLOPs formula, which count as 0 → the first
            module that ran each.
        regions (list[RegionHead]): the part of the FLOPs that heads on regions have.
        moments (list[dict[str, float]] | None): what is in memory in the moments that may be the
            peak, see :class:`.live_tensors.LiveTensors`; None unless it was asked for.
    """

    flops: dict
    activations: dict
    uncounted: dict = field(default_factory=dict)
    regions: list = field(default_factory=list)
    moments: list | None = None

    def notes(self):
        """What was not counted and how to register it.

        Returns:
            list[str]: one sentence per operator.
        """
        return [
            f"operator {name!r} (in {module or 'the model'}) has no FLOPs formula and counts as 0: "
            f"register one with blendprune.register_flops({name!r}, formula)"
            for name, module in self.uncounted.items()
        ]

    def region_notes(self):
        """For how many regions the FLOPs are, see :func:`.regions.region_notes`."""
        return region_notes(self.regions, sum(self.flops.values()))


def count_flops(model, batched_inputs):
    """FLOPs of the model up to its raw head outputs, by module.

    The numbers are fvcore's (``fvcore.nn.FlopCountAnalysis``) for every operator that fvcore knows.
    They are counted as the operators run, because ``torch.jit.trace`` refuses what follows some
    heads. Counted operators are not computed: their results are zeros of the right shape. Neither
    weights nor detections matter, and a large image takes no longer.

    SemanticSegmentor resizes its output to ``"height"`` and ``"width"`` of the image before it
    returns. fvcore on the head outputs does not see that; this count is higher by the
    interpolation, 4 FLOPs per element.

    Args:
        model (nn.Module): inside or outside the prunable view.
        batched_inputs (list[dict]): detectron2's format; the counts are for these images.

    Returns:
        dict[str, int]: own FLOPs of each module, without its children; their sum is the model's.
    """
    return count_costs(model, batched_inputs).flops


def count_activations(model, batched_inputs):
    """Numbers in the outputs of all convs and linears, by module: what inference must hold.

    "Activations" as fvcore (``fvcore.nn.ActivationCountAnalysis``) and arXiv:2003.13678 count them.

    Args:
        model (nn.Module): inside or outside the prunable view.
        batched_inputs (list[dict]): detectron2's format; the counts are for these images.

    Returns:
        dict[str, int]: activations of each module, without its children.
    """
    return count_costs(model, batched_inputs).activations


def count_params(model):
    """Number of parameters of the model, by fvcore; buffers (FrozenBN) do not count."""
    return int(parameter_count(model)[""])


def count_costs(model, batched_inputs, memory=False):
    """FLOPs and activations in one forward.

    Args:
        model (nn.Module): inside or outside the prunable view.
        batched_inputs (list[dict]): detectron2's format; the counts are for these images.
        memory (bool): also record what is in memory.

    Returns:
        Counts: by module.
    """
    model = unwrap(model)
    counter = _Counter(model)
    # In the view a layer is the same operator on every device.
    regions = []
    with _forward_of(model), prunable(model), evaluating(model), EventStorage(), counter:
        counter.live = LiveTensors(model) if memory else None
        for stage in architecture_of(model).stages(batched_inputs):
            before = dict(counter.flops)
            _count_stage(stage, counter)
            if stage.count > 1:
                regions.append(RegionHead.between(before, counter.flops, stage.count))
    moments = counter.live.moments if memory else None
    return Counts(counter.flops, counter.activations, counter.uncounted, regions, moments)


def _count_stage(stage, counter):
    # All regions cost the same, on top of the fixed cost of the stage. Two runs tell both:
    # cost(n) = cost(1) + (n - 1) * (cost(2) - cost(1)).
    live = counter.live
    run = stage.run if live is None else live.recorded(stage.run)
    counter.times = 2 - stage.count
    runs = [run(1)]
    if stage.count > 1:
        counter.times = stage.count - 1
        runs.append(run(2))
    if live is not None and not live.add(runs, stage.count):
        # Two regions run in another way than one: only all of them tell what they need.
        counter.times = 0
        live.add([run(stage.count)])


@contextlib.contextmanager
def _forward_of(model):
    """Say of an error of the model's own forward what it ran on; it is the first to run."""
    try:
        yield
    except BlendpruneError:
        raise
    except Exception as error:
        raise PruningError(
            f"the forward of {type(model).__name__} fails on the example inputs "
            f"({type(error).__name__}: {first_line(error)}): pass example_inputs like those that "
            "the model takes"
        ) from error


def flops_by_module(before, after):
    """What pruning has left of the FLOPs of each module.

    Args:
        before (dict[str, int]), after (dict[str, int]): from :func:`count_flops`, of the model
            before and after.

    Returns:
        dict[str, dict[str, int]]: each module that had own FLOPs → ``"before"`` and ``"after"``.
    """
    return {
        name: {"before": flops, "after": after.get(name, 0)}
        for name, flops in before.items()
        if flops
    }


def total_costs(model, counts):
    """Costs of a model as a whole.

    Args:
        model (nn.Module): outside the prunable view, where FrozenBN has no parameters.
        counts (Counts): from :func:`count_costs`.

    Returns:
        dict[str, int]: ``"flops"``, ``"params"`` and ``"activations"``; ``"memory"``, in bytes, if
        it was counted.
    """
    totals = {
        "flops": sum(counts.flops.values()),
        "params": count_params(model),
        "activations": sum(counts.activations.values()),
    }
    if counts.moments is not None:
        totals["memory"] = round(max(sum(moment.values()) for moment in counts.moments))
    return totals


_NUMPY_TYPES = {torch.float32: np.float32, torch.int64: np.int64}
# Operator and signature → its results on the meta device, for all layers, models and counts.
_RESULTS, _MOST_RESULTS = {}, 10_000
# Operators that make zeros from zeros → how many of their first arguments must be zero.
_KEEPS_ZERO = {
    "aten::add": 2,
    "aten::add_": 2,
    "aten::relu": 1,
    "aten::relu_": 1,
    "aten::max_pool2d_with_indices": 1,
}


class _Counter(TorchDispatchMode):
    """Adds up FLOPs by the module that is running.

    Attributes:
        flops, activations, uncounted: see :class:`Counts`.
        times (int): how often the operators that run now count.
        live (LiveTensors | None): also told of each operator.
    """

    def __init__(self, model):
        super().__init__()
        self.times, self.live = 1, None
        self._names = {module: name for name, module in model.named_modules()}
        self._formulas = {module: module_formula(module) for module in self._names}
        self.flops = dict.fromkeys(self._names.values(), 0)
        self.activations = dict(self.flops)
        self.uncounted = {}
        # Names of the running modules, innermost last. torch.utils.module_tracker keeps a set of
        # them, which does not tell the innermost where a module calls one that is not its child.
        self._running = [""]
        # Tensors that are known to hold zeros only, with their version then.
        self._zero = WeakIdKeyDictionary()
        # How many running modules have a formula of their own: nothing in them counts twice.
        self._by_formula = 0
        self._hooks = contextlib.ExitStack()

    def __enter__(self):
        for hook, options in (
            (self._enter, {"before": True}),
            (self._leave, {"always_call": True}),
        ):
            self._hooks.enter_context(forward_hooks(self._names, hook, **options))
        return super().__enter__()

    def __exit__(self, *error):
        self._hooks.close()
        return super().__exit__(*error)

    def _enter(self, module, inputs):
        self._running.append(self._names[module])
        self._by_formula += self._formulas[module] is not None

    def _leave(self, module, inputs, output):
        name, formula = self._running.pop(), self._formulas[module]
        if formula is not None:
            self._by_formula -= 1
            # A forward that failed has no output.
            if not self._by_formula and output is not None:
                self.flops[name] += self.times * int(formula(module, inputs, output))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, formula = operator_name(func), OPERATORS.get(operator_name(func))
        if self.live is None:
            return self._count(func, name, formula, args, kwargs or {})
        self.live.before(func)
        result = self._count(func, name, formula, args, kwargs or {})
        self.live.after(name, formula in PRODUCTS, args, result, self._running[-1])
        return result

    def _count(self, func, name, formula, args, kwargs):
        if formula is None:
            result = self._run(func, name, args, kwargs)
            if not self._by_formula and name not in self.uncounted and not is_free(func, result):
                self.uncounted[name] = self._running[-1]
            return result
        result = self._zeros(func, args, kwargs)
        if not self._by_formula:
            self.flops[self._running[-1]] += self.times * formula(result, *args)
        if formula in PRODUCTS:
            self.activations[self._running[-1]] += self.times * result.numel()
        return result

    def _run(self, func, name, args, kwargs):
        """Run an operator, but do not compute zeros from zeros."""
        wanted = _KEEPS_ZERO.get(name)
        if wanted is None or not all(map(self._is_zero, args[:wanted])):
            return func(*args, **kwargs)
        if not name.endswith("_"):
            return self._zeros(func, args, kwargs)
        # Autograd counts the version up once this operator returns.
        self._zero[args[0]] = args[0]._version + 1
        return args[0]

    def _is_zero(self, x):
        return isinstance(x, torch.Tensor) and self._zero.get(x) == x._version

    def _zeros(self, func, args, kwargs):
        """The result of the operator, with the right shape and type, in zeros."""
        leaves, _ = tree_flatten((args, kwargs))
        device = next(x.device for x in leaves if isinstance(x, torch.Tensor))
        key = func, _signature(args), _signature(kwargs)
        found = _RESULTS.get(key)
        if found is None:
            args, kwargs = tree_map_only(torch.Tensor, lambda x: x.to("meta"), (args, kwargs))
            found = func(*args, **kwargs)
            if len(_RESULTS) >= _MOST_RESULTS:
                _RESULTS.clear()
            _RESULTS[key] = found
        result = tree_map_only(torch.Tensor, lambda x: _zeros_like(x, device), found)
        for x in tree_flatten(result)[0]:
            if isinstance(x, torch.Tensor):
                self._zero[x] = x._version
        return result


def _signature(value):
    """What the shape and type of an operator's results depend on, as a key of a dict."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype
    if isinstance(value, dict):
        return tuple((key, _signature(part)) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), *map(_signature, value)
    return value


def _zeros_like(x, device):
    if device.type == "cpu" and x.dtype in _NUMPY_TYPES:
        # The system clears the memory of such an array only when it is first touched.
        return torch.from_numpy(np.zeros(tuple(x.shape), _NUMPY_TYPES[x.dtype]))
    return torch.zeros_like(x, device=device)
