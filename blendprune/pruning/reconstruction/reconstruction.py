"""Ridge regression on calibration images, layer by layer, in the order in which they run."""

import contextlib
import itertools
import weakref
from dataclasses import dataclass, field

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from ..architectures import architecture_of
from ..tracing.hooks import evaluating, forward_hooks
from ..tracing.layer_kinds import is_norm
from ..tracing.snapshot import keeping_state
from ..tracing.view import prunable
from .linear_maps import linear_map
from .output_cache import OutputCache
from .solve import ridge_regression
from .sums import Sums

# Positions of each layer that a regression uses, over all images.
_POSITIONS = 8192
# Penalty on the change of the weights, as a fraction of the mean squared input.
_RIDGE = 0.01


@dataclass
class _Target:
    """Outputs of a layer of the dense model, at sampled positions."""

    calls: int
    share: float
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

    Memory: a fixed number of positions of each layer, for any number of images.

    Args:
        model (nn.Module): the dense model, before anything is pruned.
        batches (list[list[dict]]): only ``"image"`` (C, H, W) is read, and ``"proposals"`` by
            a model without a proposal generator.
    """

    def __init__(self, model, batches):
        read = ("image", "proposals")
        self.batches = [
            [{key: image[key] for key in read if key in image} for image in batch]
            for batch in batches
        ]
        self._targets = {}
        with prunable(model), evaluating(model):
            self._regions = [architecture_of(model).find_regions(batch) for batch in self.batches]
            self._look(model)
            self._collect(model)

    def __call__(self, model, kept):
        """Refit the weights of a pruned model, in place.

        Args:
            model (nn.Module): the same object, pruned.
            kept (KeptEntries): has followed everything that was removed.
        """
        with prunable(model), evaluating(model):
            layers = {name: model.get_submodule(name) for name in self._targets}
            cache = OutputCache(model, layers.values())
            for name, layer in layers.items():
                self._refit(model, name, kept, cache)
                cache.final(layer)

    def _look(self, model):
        """Find the layers, in order, how often each runs, and the norm behind each."""
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

        layers = [m for m in model.modules() if is_norm(m) or linear_map(m) is not None]
        with forward_hooks(layers, record):
            _run(model, self.batches[0], self._regions[0])
        for layer, counts in calls.items():
            if sum(counts) == 0:
                continue
            # A norm that several layers share, or one of several behind a layer, is not its own.
            found = [norms.get(layer, {}).get(call, []) for call in range(len(counts))]
            own = all(len(behind) == 1 and len(makers[behind[0]]) == 1 for behind in found)
            share = min(1.0, _POSITIONS / len(self.batches) / sum(counts))
            self._targets[names[layer]] = _Target(
                len(counts),
                share,
                tuple(layer.weight.shape),
                [names[norm] for [norm] in found] if own else [],
            )

    def _collect(self, model):
        generator = torch.Generator().manual_seed(0)
        names = {model.get_submodule(name): name for name in self._targets}

        def take(layer, inputs, output):
            target, rows = self._targets[names[layer]], linear_map(layer)
            count = rows.count(output)
            kept = min(count, max(1, round(target.share * count)))
            where = torch.randperm(count, generator=generator)[:kept].to(output.device)
            target.where.append(where)
            target.outputs.append(rows.outputs(output, where).clone())

        def total(name, result, other):
            target = self._targets[name]
            rows = linear_map(model.get_submodule(name))
            target.totals.append(rows.outputs(result, target.where[-1]).clone())

        with forward_hooks(names, take):
            for batch, regions in zip(self.batches, self._regions):
                with self._sums(model, self._targets, total):
                    _run(model, batch, regions)
        for target in self._targets.values():
            if len(target.totals) != len(target.outputs):
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

    def _refit(self, model, name, kept, cache):
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
                with contextlib.suppress(_Seen), cache.on(number), self._sums(model, sums, add):
                    _run(model, batch, regions)
        self._fit(model, name, torch.cat(seen), others, kept)

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


def _run(model, batch, regions):
    """Run the layers that see whole images, and those that see regions on what the dense one found.

    A pruned model finds other regions than the dense one; rows would then not be rows of the same
    things. Counters, such as that of a list of norms which tells the next level of the pyramid,
    stay as they were, also when a hook stops the run.
    """
    with keeping_state(model), EventStorage():
        architecture_of(model).run_on_regions(batch, regions)


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
