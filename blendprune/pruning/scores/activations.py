"""Importances from the inputs of layers on images: forward passes only, no labels."""

import torch

from ... import distributed
from ...progress import Counted
from ..graph.layer_sides import sum_by_input
from ..graph.outputs import head_outputs
from ..tracing.hooks import evaluating, forward_hooks, full_forward
from .registry import IMPORTANCES, CollectedImportance


class ActivationImportance(CollectedImportance):
    """Mean size of the channel where it is read, divided by the group's mean.

    As arXiv:1607.03250 counts zeros and Torch-Pruning's (unfinished) ``ActivationImportance``
    averages absolute values, but over all images, positions, readers and pyramid levels.
    """

    def collect(self, model, groups, batches):
        self.scores = {}
        sums, counts = {}, {}

        def record(layer, x):
            sums[layer] = sums.get(layer, 0) + x.abs().sum(0, dtype=torch.float64)
            counts[layer] = counts.get(layer, 0) + len(x)

        layers = _read_by(groups)
        observe_inputs(model, layers, batches, record)
        sums = distributed.summed(sums, layers)
        counts = _total(counts, layers)
        for group in groups:
            size = torch.zeros(group.width, dtype=torch.float64)
            seen = 0
            for side in group.readers:
                if side.layer in sums:
                    size.index_add_(0, side.channels, sums[side.layer].cpu()[side.entries])
                    seen += counts[side.layer] * len(side.entries) / len(size)
            size /= max(seen, 1)
            self.scores[group.root] = size / size.mean().clamp(min=1e-30)


@IMPORTANCES.register()
def activation():
    """Mean size of the channel where it is read: see :class:`ActivationImportance`."""
    return ActivationImportance()


class WandaImportance(CollectedImportance):
    """Share of the channel in the energy that its readers receive.

    It is the energy of the channel times that of the weights that read it, ``‖W_c‖² · E[x_c²]``,
    divided by the sum over all channels of the reader, summed over the readers: the score of Wanda
    (arXiv:2306.11695) for whole channels. Shares are comparable between groups.
    """

    def collect(self, model, groups, batches):
        self.scores = {}
        energy = {}

        def record(layer, x):
            energy[layer] = energy.get(layer, 0) + x.square().sum(0, dtype=torch.float64)

        layers = _read_by(groups)
        observe_inputs(model, layers, batches, record)
        energy = distributed.summed(energy, layers)
        for group in groups:
            share = torch.zeros(group.width, dtype=torch.float64)
            for side in group.readers:
                if side.layer in energy:
                    read = (energy[side.layer] * _weight_energy(side.layer)).cpu()
                    amounts = read[side.entries] / read.sum().clamp(min=1e-30)
                    share.index_add_(0, side.channels, amounts)
            self.scores[group.root] = share


@IMPORTANCES.register()
def wanda():
    """Share in the energy that its readers receive: see :class:`WandaImportance`."""
    return WandaImportance()


def observe_inputs(model, layers, batches, record):
    """Observe the inputs of layers on images, in eval mode and without gradients.

    Layers that inference does not reach (training-only heads; mask heads without detections) get
    the inputs of :func:`blendprune.pruning.head_outputs` instead.

    Args:
        model (nn.Module): inside the prunable view.
        layers (Iterable[nn.Module]): convs and linears, each once.
        batches (list[list[dict]]): only ``"image"``, (C, H, W), is read.
        record (Callable): called as ``record(layer, x)`` at each call of each layer, with x of
            (positions, input channels).
    """
    missing = list(layers)
    for run in (lambda model, batch: model(batch), head_outputs):
        if missing:
            reached = _record(model, missing, batches, run, record)
            seen = distributed.gathered([layer in reached for layer in missing])
            missing = [layer for layer, *by in zip(missing, *seen) if not any(by)]


def _record(model, layers, batches, run, record):
    reached = set()

    def hook(layer, inputs):
        x = inputs[0].detach()
        if not isinstance(layer, torch.nn.Linear):
            x = x.movedim(1, -1)
        x = x.flatten(0, -2)
        if len(x):
            reached.add(layer)
            record(layer, x)

    with evaluating(model), full_forward(model), forward_hooks(layers, hook, before=True):
        for batch in Counted(batches, "features of batch"):
            run(model, [{"image": image["image"]} for image in batch])
    return reached


def _read_by(groups):
    """All readers, each once, in the same order in every process."""
    return list(dict.fromkeys(side.layer for group in groups for side in group.readers))


def _total(counts, layers):
    """Counts of all processes, by the layer."""
    everywhere = distributed.gathered([counts.get(layer, 0) for layer in layers])
    return {layer: sum(each) for layer, *each in zip(layers, *everywhere)}


def _weight_energy(layer):
    """Sum of squared weights that read each input channel: (input channels,)."""
    return sum_by_input(layer, layer.weight.detach().double().square())
