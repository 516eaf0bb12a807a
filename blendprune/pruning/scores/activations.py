"""Importances from what the layers see on images: forward passes alone, no labels."""

import torch

from ..graph.outputs import head_outputs, is_blendmask
from ..tracing.hooks import forward_hooks
from ..tracing.view import evaluating
from .readers import by_input, readers
from .registry import IMPORTANCES, CollectedImportance


class ActivationImportance(CollectedImportance):
    """Mean size of the channel where it is read, over the group's mean.

    As arXiv:1607.03250 counts zeros and Torch-Pruning's (unfinished) ``ActivationImportance``
    averages absolute values, but over all images, positions, readers and pyramid levels.
    """

    def collect(self, model, groups, batches):
        self.scores = {}
        sums, counts = {}, {}

        def record(layer, x):
            sums[layer] = sums.get(layer, 0) + x.abs().sum(0, dtype=torch.float64)
            counts[layer] = counts.get(layer, 0) + len(x)

        observe_inputs(model, _read_by(groups), batches, record)
        for group in groups:
            size = torch.zeros(len(group[0].idxs), dtype=torch.float64)
            seen = 0
            for layer, inputs, channels in readers(group):
                if layer in sums:
                    size.index_add_(0, channels, sums[layer].cpu()[inputs])
                    seen += counts[layer] * len(inputs) / len(size)
            size /= max(seen, 1)
            self.scores[group[0].dep.target.module] = size / size.mean().clamp(min=1e-30)


@IMPORTANCES.register()
def activation():
    """Mean size of the channel where it is read: see :class:`ActivationImportance`."""
    return ActivationImportance()


class WandaImportance(CollectedImportance):
    """Share of the channel in the energy of what its readers make of their inputs.

    Energy of the channel times that of the weights that read it, ``‖W_c‖² · E[x_c²]``, over the sum
    of all channels of the reader, summed over the readers: the score of Wanda (arXiv:2306.11695)
    for whole channels. Shares are comparable between groups as they are.
    """

    def collect(self, model, groups, batches):
        self.scores = {}
        energy = {}

        def record(layer, x):
            energy[layer] = energy.get(layer, 0) + x.square().sum(0, dtype=torch.float64)

        observe_inputs(model, _read_by(groups), batches, record)
        for group in groups:
            share = torch.zeros(len(group[0].idxs), dtype=torch.float64)
            for layer, inputs, channels in readers(group):
                if layer in energy:
                    read = (energy[layer] * _weight_energy(layer)).cpu()
                    share.index_add_(0, channels, read[inputs] / read.sum().clamp(min=1e-30))
            self.scores[group[0].dep.target.module] = share


@IMPORTANCES.register()
def wanda():
    """Share in the energy that its readers receive: see :class:`WandaImportance`."""
    return WandaImportance()


def observe_inputs(model, layers, batches, record):
    """Show what layers see on images, in eval mode and without gradients.

    Layers that inference does not reach (training-only heads; mask heads where nothing is detected)
    see what :func:`blendprune.pruning.head_outputs` gives them instead.

    Args:
        model (nn.Module): inside the prunable view.
        layers (set[nn.Module]): convs and linears.
        batches (list[list[dict]]): only ``"image"``, (C, H, W), is read.
        record (Callable): called as ``record(layer, x)`` at each call of each layer, with x of
            (positions, input channels).
    """
    missing = set(layers)
    # Parts of a BlendMask that come after its detections have no layers.
    runs = [head_outputs] if is_blendmask(model) else [lambda m, batch: m(batch), head_outputs]
    for run in runs:
        if missing:
            missing -= _record(model, missing, batches, run, record)


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

    with evaluating(model), forward_hooks(layers, hook, before=True):
        for batch in batches:
            run(model, [{"image": image["image"]} for image in batch])
    return reached


def _read_by(groups):
    return {layer for group in groups for layer, _, _ in readers(group)}


def _weight_energy(layer):
    """Sum of squared weights that read each input channel: (input channels,)."""
    return by_input(layer, layer.weight.detach().double().square())
