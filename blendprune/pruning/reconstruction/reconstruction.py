"""Ridge regression on calibration images, layer by layer, in the order in which they run."""

import contextlib
import itertools
import logging
import math
import weakref
from dataclasses import dataclass, field

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from ... import distributed
from ...progress import Counted
from ..architectures import architecture_of
from ..tracing.allocator import give_back_memory
from ..tracing.hooks import evaluating, forward_hooks
from ..tracing.layer_kinds import is_norm, tied_modules
from ..tracing.snapshot import ForwardState
from ..tracing.view import prunable
from .linear_maps import linear_map
from .output_cache import OutputCache
from .solve import ridge_regression
from .sums import Sums

_log = logging.getLogger(__name__)

# Bytes of outputs of finished parts, of all images.
_BUDGET = 3 << 30
# Positions of each layer that a regression uses, over all images.
_POSITIONS = 8192
# Penalty on the change of the weights, as a fraction of the mean squared input.
_RIDGE = 0.01


@dataclass
class _Target:
    """Outputs of a layer of the dense model, at sampled positions."""

    calls: int
    # In one image.
    positions: int
    shape: tuple
    # The norm behind each call: the same one, or one per level; empty if a call has other norms.
    norms: list = field(default_factory=list)
    where: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    totals: list = field(default_factory=list)


class Reconstruction:
    """Refits the layers of a pruned model to the features of the dense model.

    Ridge regression refits one layer after the other, in the order in which they run. The inputs
    are those of the pruned model, so a layer corrects the errors of the layers before it. The
    targets are the outputs of the dense model at the remaining channels. Where the output is added
    to another path (residual connections, FPN), the target is the dense model's sum, so the layer
    also corrects the errors of the other path. No labels, no gradients.

    The idea is that of channel pruning by reconstruction (arXiv:1707.06168) and of two-stage
    reconstruction (REAP). Sums, norms per level and accumulated errors are added for detectors.

    Memory: a fixed number of positions of each layer, for any number of images, and the outputs of
    finished parts of a model, which save computing them again for each layer: as many images take
    part as have these within 3 GB, evenly spread over the data. So one round costs about one
    forward per image. Processes that prune together have that memory each, for the images of their
    own, and regress on the positions of all.

    Args:
        model (nn.Module): the dense model, before anything is pruned.
        batches (list[list[dict]]): only ``"image"`` (C, H, W) is read, and ``"proposals"`` by
            a model without a proposal generator.

    Attributes:
        batches (list[list[dict]]): those that take part, of one image each.
    """

    def __init__(self, model, batches):
        read = ("image", "proposals")
        self.batches = [
            [{key: image[key] for key in read if key in image}]
            for batch in batches
            for image in batch
        ]
        self._targets = {}
        find_regions = architecture_of(model).find_regions
        with prunable(model), evaluating(model):
            # The same image in every process.
            first = distributed.from_first(lambda: self.batches[0])
            seen = first, find_regions(first)
            self._look(model, seen)
            self._choose(max(1, _BUDGET // max(1, self._bytes_per_image(model, seen))))
            self._regions = [find_regions(batch) for batch in self.batches]
            self._collect(model)

    def _choose(self, most):
        """Leave at most so many images, evenly spread."""
        count = len(self.batches)
        if count > most:
            self.batches = [self.batches[i * count // most] for i in range(most)]
            _log.info("%d of %d images take part: they are large", most, count)

    def _bytes_per_image(self, model, first):
        """Most bytes of outputs that are kept of an image at a time, of the first one.

        Args:
            first (tuple): a batch and its regions.
        """
        layers = {name: model.get_submodule(name) for name in self._targets}
        cache, most = OutputCache(model, layers.values(), budget=math.inf), 0
        with _forwards(model) as run:
            for name, layer in layers.items():
                with contextlib.suppress(Exception):
                    stop = _StopAfter(self._targets[name].calls)
                    with forward_hooks([layer], stop, before=True), cache.on(0):
                        run(*first)
                most = max(most, cache.size)
                cache.final(layer)
        return most

    def __call__(self, model, kept, seconds):
        """Refit the weights of a pruned model, in place.

        Args:
            model (nn.Module): the same object, pruned.
            kept (KeptEntries): has followed everything that was removed.
            seconds (StageSeconds): gets the times of ``"replay"`` and ``"solving"``.
        """
        with prunable(model), evaluating(model):
            layers = {name: model.get_submodule(name) for name in self._targets}
            cache = OutputCache(model, layers.values())
            with _forwards(model) as run:
                for name, layer in Counted(layers.items(), "refitting layer"):
                    self._refit(run, model, name, kept, cache, seconds)
                    cache.final(layer)
                    give_back_memory()

    def _look(self, model, first):
        """Find the layers, in order, how often each runs, and the norm behind each.

        Args:
            first (tuple): a batch and its regions.
        """
        names = {module: name for name, module in model.named_modules()}
        calls, made, norms, makers = {}, {}, {}, {}

        def record(layer, inputs, output):
            maker, call, output_of = made.get(id(inputs[0]), (None, None, None))
            if is_norm(layer) and maker is not None and output_of() is inputs[0]:
                norms.setdefault(maker, {}).setdefault(call, []).append(layer)
                makers.setdefault(layer, set()).add(maker)
            rows = linear_map(layer)
            if rows is not None:
                counts = calls.setdefault(layer, [])
                if not is_norm(layer):
                    # Weakly: all features of a large batch are more than some memories hold.
                    made[id(output)] = (layer, len(counts), weakref.ref(output))
                counts.append(rows.count(output))

        # A weight that layers share would become one for each.
        own = names.keys() - tied_modules(names)
        layers = [m for m in names if m in own and (is_norm(m) or linear_map(m) is not None)]
        with forward_hooks(layers, record), _forwards(model) as run:
            run(*first)
        for layer, counts in calls.items():
            if sum(counts) == 0:
                continue
            # A norm that several layers share, or one of several behind a layer, is not its own.
            found = [norms.get(layer, {}).get(call, []) for call in range(len(counts))]
            own = all(len(behind) == 1 and len(makers[behind[0]]) == 1 for behind in found)
            self._targets[names[layer]] = _Target(
                len(counts),
                sum(counts),
                tuple(layer.weight.shape),
                [names[norm] for [norm] in found] if own else [],
            )

    def _collect(self, model):
        generator = torch.Generator()
        most = _POSITIONS / sum(distributed.gathered(len(self.batches)))
        names = {model.get_submodule(name): name for name in self._targets}

        def take(layer, inputs, output):
            target, rows = self._targets[names[layer]], linear_map(layer)
            count = rows.count(output)
            share = min(1.0, most / target.positions)
            kept = min(count, max(1, round(share * count)))
            where = torch.randperm(count, generator=generator)[:kept].to(output.device)
            target.where.append(where)
            target.outputs.append(rows.outputs(output, where).clone())

        def total(name, result, other):
            target = self._targets[name]
            rows = linear_map(model.get_submodule(name))
            target.totals.append(rows.outputs(result, target.where[-1]).clone())

        images = Counted(list(zip(self.batches, self._regions)), "features of image")
        with forward_hooks(names, take), _forwards(model) as run:
            for number, (batch, regions) in enumerate(images):
                # The positions are those of the image, whichever process has it.
                generator.manual_seed(distributed.number_of(number))
                with self._sums(model, self._targets, total):
                    run(batch, regions)
                give_back_memory()
        whole = [len(target.totals) == len(target.outputs) for target in self._targets.values()]
        for target, *everywhere in zip(self._targets.values(), *distributed.gathered(whole)):
            if not all(everywhere):
                target.totals = []

    @contextlib.contextmanager
    def _sums(self, model, names, report):
        """Report sums with the outputs of the named layers, until the block ends."""
        last = {}
        for name in names:
            norms = [model.get_submodule(norm) for norm in self._targets[name].norms]
            if all(map(_is_affine, norms)):
                last.update(dict.fromkeys(norms or [model.get_submodule(name)], name))
        sums = Sums(report)
        with (
            forward_hooks(last, lambda layer, inputs, output: sums.made(output, last[layer])),
            sums,
        ):
            yield

    def _refit(self, run, model, name, kept, cache, seconds):
        with seconds.of("replay"):
            inputs, others = self._final_rows(run, model, name, cache)
        with seconds.of("solving"):
            self._fit(model, name, torch.cat(inputs), others, kept)

    def _final_rows(self, run, model, name, cache):
        rows = None
        with contextlib.suppress(Exception):  # the model may look at what is not final
            rows = self._rows(run, model, name, cache, blank=True)
        if rows is None or not all(x.isfinite().all() for x in itertools.chain(*rows)):
            # The layer runs behind layers that are not final, too.
            rows = self._rows(run, model, name, cache, blank=False)
        return rows

    def _rows(self, run, model, name, cache, blank):
        """Inputs of a layer at the sampled positions of each call, and what is added to its output.

        Args:
            run (Callable): from :func:`_forwards`.
            model (nn.Module): pruned.
            name (str): of the layer.
            cache (OutputCache): of the model.
            blank (bool): do not compute layers that are not final.

        Returns:
            tuple[list[Tensor], list[Tensor]]: each (positions, G, inputs) and (positions, outputs).
        """
        target, layer = self._targets[name], model.get_submodule(name)
        rows, seen, others, left = linear_map(layer), [], [], 0

        def enough():
            nonlocal left
            left -= 1
            if left == 0:
                raise _Seen

        def see(_, inputs):
            seen.append(rows.inputs(inputs, target.where[len(seen)]))
            enough()

        def add(_, result, other):
            others.append(rows.outputs(other, target.where[len(others)]).clone())
            enough()

        sums = [name] if target.totals else []
        with forward_hooks([layer], see, before=True):
            for number, (batch, regions) in enumerate(zip(self.batches, self._regions)):
                left = target.calls * (1 + len(sums))
                with (
                    contextlib.suppress(_Seen),
                    cache.on(number, blank),
                    self._sums(model, sums, add),
                ):
                    run(batch, regions)
        return seen, others

    def _fit(self, model, name, inputs, others, kept):
        target, layer = self._targets[name], model.get_submodule(name)
        rows, norms = linear_map(layer), [model.get_submodule(norm) for norm in target.norms]
        entries = kept.entries(layer, "weight")
        left = slice(None)
        if entries is not None:
            left = rows.output_channels(entries, target.shape)
        wanted = [outputs[:, left] for outputs in target.outputs]
        if others:
            rest = [total[:, left] - other for total, other in zip(target.totals, others)]
            behind = itertools.cycle(norms)
            wanted = (
                [invert_batch_norm(next(behind), *x) for x in zip(rest, wanted)] if norms else rest
            )
        matrix = rows.matrix()
        lacking = torch.cat(wanted) - torch.einsum("pgi,goi->pgo", inputs, matrix).flatten(1)
        if layer.bias is not None:
            lacking = lacking - layer.bias
        shifted = norms if norms and all(map(_is_affine, norms)) else [layer] * target.calls
        can_shift = shifted is norms or layer.bias is not None
        lacking = lacking.unflatten(1, matrix.shape[:2])
        change, shifts = ridge_regression(
            inputs, lacking, self._shares(target, shifted) if can_shift else None, _RIDGE
        )
        if not (change.isfinite().all() and shifts.isfinite().all()):
            return
        rows.set_matrix(matrix + change)
        for module, shift in zip(dict.fromkeys(shifted), shifts.flatten(1)):
            if module is layer:
                layer.bias = nn.Parameter(layer.bias.detach() + shift)
            else:
                module.running_mean = module.running_mean - shift

    @staticmethod
    def _shares(target, shifted):
        """Number of the module that shifts each row, (positions,)."""
        number = {module: i for i, module in enumerate(dict.fromkeys(shifted))}
        which = itertools.cycle(number[module] for module in shifted)
        return torch.cat([torch.full_like(where, next(which)) for where in target.where])


class _Seen(Exception):
    """Every layer of interest has run."""


class _StopAfter:
    """A forward pre-hook that ends the run at a call.

    Args:
        calls (int): number of the call, from 1.
    """

    def __init__(self, calls):
        self._left = calls

    def __call__(self, layer, inputs):
        self._left -= 1
        if self._left == 0:
            raise _Seen


@contextlib.contextmanager
def _forwards(model):
    """Run a model again and again from the same state, until the block ends.

    Counters, such as that of a list of norms which tells the next level of the pyramid, stay as
    they were, also when a hook stops a run.

    Yields:
        Callable: of a batch and its regions. It runs the layers that see whole images, and those
        that see regions on what the dense model found: a pruned one finds others, and rows would
        then not be rows of the same things.
    """
    architecture, state = architecture_of(model), ForwardState(model)

    def run(batch, regions):
        try:
            architecture.run_on_regions(batch, regions)
        finally:
            state.rewind()

    try:
        with EventStorage():
            yield run
    finally:
        state.restore()


def _is_affine(norm):
    """Whether a norm has fixed statistics: an affine map of each channel."""
    return getattr(norm, "running_mean", None) is not None


def invert_batch_norm(norm, wanted, otherwise):
    """Invert a norm of fixed statistics; ``otherwise`` at channels whose scale is near 0."""
    scale, shift = (norm.running_var + norm.eps).rsqrt(), 0.0
    if norm.weight is not None:
        scale, shift = norm.weight * scale, norm.bias
    acts = scale.abs() > 1e-3
    before = (wanted - shift) / torch.where(acts, scale, 1.0) + norm.running_mean
    return torch.where(acts, before, otherwise)
