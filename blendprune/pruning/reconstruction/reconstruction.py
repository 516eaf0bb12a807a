"""Least squares on calibration images, layer by layer, in the order in which the layers run."""

import contextlib
import itertools
from dataclasses import dataclass, field

import torch
from torch import nn

from ..tracing.hooks import forward_hooks
from ..tracing.view import evaluating, is_norm, prunable
from .images import given_regions, run
from .linear_maps import linear_map
from .output_cache import Replay
from .solve import ridge_regression
from .sums import Sums

# Positions of each layer, over all images, that the regression is fitted to.
_POSITIONS = 8192
# Penalty on the change of the weights, as a fraction of the mean squared input.
_RIDGE = 0.01


@dataclass
class _Target:
    """What a layer of the dense model gave, at chosen positions."""

    calls: int
    share: float
    shape: tuple
    # The norm behind each call: the same one, or one for each level; none if any has other norms.
    norms: list = field(default_factory=list)
    where: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    totals: list = field(default_factory=list)


class Reconstruction:
    """Brings a pruned model as near to the features of the dense one as its widths allow.

    In the order in which the layers run, each is fitted by ridge regression: from what it sees in
    the pruned model, so that the errors of the layers before it are made good, to what the dense
    one gave at the channels that are left. Where a layer is added to another path (residual
    connections, FPN), the sum of the dense model is the target, so that the errors of the other
    path are made good, too. No labels, no gradients.

    The idea is that of channel pruning by reconstruction (arXiv:1707.06168) and of two-stage
    reconstruction (REAP); sums, norms and errors so far are in it for detectors.

    Memory: a fixed number of positions of each layer, however many images there are.

    Args:
        model (nn.Module): the dense model, before any cut.
        batches (list[list[dict]]): only ``"image"``, (C, H, W), is read, and ``"proposals"`` by
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
            self._regions = [given_regions(model, batch) for batch in self.batches]
            self._look(model)
            self._collect(model)

    def __call__(self, model, survivors):
        """Correct the weights of a pruned model, in place.

        Args:
            model (nn.Module): the same object, cut.
            survivors (Survivors): what has followed all cuts.
        """
        with prunable(model), evaluating(model):
            layers = {name: model.get_submodule(name) for name in self._targets}
            replay = Replay(model, layers.values())
            for name, layer in layers.items():
                self._correct(model, name, survivors, replay)
                replay.final(layer)

    def _look(self, model):
        """Which layers there are, in order, how often each runs, and the norm behind each."""
        names = {module: name for name, module in model.named_modules()}
        calls, made, norms, makers = {}, {}, {}, {}

        def record(layer, inputs, output):
            if is_norm(layer) and id(inputs[0]) in made:
                maker, call, _ = made[id(inputs[0])]
                norms.setdefault(maker, {}).setdefault(call, []).append(layer)
                makers.setdefault(layer, set()).add(maker)
            rows = linear_map(layer)
            if rows is not None:
                counts = calls.setdefault(layer, [])
                if not is_norm(layer):
                    made[id(output)] = (layer, len(counts), output)
                counts.append(rows.count(output))

        layers = [m for m in model.modules() if is_norm(m) or linear_map(m) is not None]
        with forward_hooks(layers, record):
            run(model, self.batches[0], self._regions[0])
        for layer, counts in calls.items():
            if sum(counts) == 0:
                continue
            # A norm that several layers share, or one of several, is no part of the layer.
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
                    run(model, batch, regions)
        for target in self._targets.values():
            if len(target.totals) != len(target.outputs):
                target.totals = []

    @contextlib.contextmanager
    def _sums(self, model, names, report):
        """Within it, sums with what the named layers give are reported."""
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

    def _correct(self, model, name, survivors, replay):
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
                with contextlib.suppress(_Seen), replay.on(number), self._sums(model, sums, add):
                    run(model, batch, regions)
        self._fit(model, name, torch.cat(seen), others, survivors)

    def _fit(self, model, name, inputs, others, survivors):
        target, layer = self._targets[name], model.get_submodule(name)
        rows, norms = linear_map(layer), [model.get_submodule(norm) for norm in target.norms]
        entries = survivors.entries(layer, "weight")
        kept = slice(None)
        if entries is not None:
            kept = rows.output_channels(entries, target.shape)
        wanted = [outputs[:, kept] for outputs in target.outputs]
        if others:
            rest = [total[:, kept] - other for total, other in zip(target.totals, others)]
            behind = itertools.cycle(norms)
            wanted = [_before_norm(next(behind), *x) for x in zip(rest, wanted)] if norms else rest
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
        """Which of the distinct modules that shift rows shifts each row: (positions,)."""
        number = {module: i for i, module in enumerate(dict.fromkeys(shifted))}
        which = itertools.cycle(number[module] for module in shifted)
        return torch.cat([torch.full_like(where, next(which)) for where in target.where])


class _Seen(Exception):
    """All that was asked for has run."""


def _is_affine(norm):
    """Whether it is a norm with fixed statistics, an affine map of each channel."""
    return getattr(norm, "running_mean", None) is not None


def _before_norm(norm, wanted, otherwise):
    """What a norm of fixed statistics makes something of; ``otherwise`` where it makes nothing."""
    scale, shift = (norm.running_var + norm.eps).rsqrt(), 0.0
    if norm.weight is not None:
        scale, shift = norm.weight * scale, norm.bias
    acts = scale.abs() > 1e-3
    before = (wanted - shift) / torch.where(acts, scale, 1.0) + norm.running_mean
    return torch.where(acts, before, otherwise)
