"""Optimal Brain Surgeon for channels: the loss after the other channels make up for one."""

import math

import torch
from torch import nn

from ... import distributed
from ..tracing.hooks import forward_hooks
from .gradients import EffectImportance
from .partial_sums import SumsByOwner
from .predictions import PredictionProbe
from .registry import IMPORTANCES, CollectedImportance

# Penalty of the regression of a channel on the others, as a fraction of their mean square.
_RIDGE = 1e-3
# A group loses its channels in this many steps; each step computes again what the rest explains.
_STEPS = 64


class OBS(CollectedImportance):
    """How far the predictions move when a channel goes and its readers' weights are refit.

    A reader that loses channel j loses the part of x_j that the remaining channels do not explain.
    The variance of that part is 1 / (H⁻¹)_jj, H the second moments of the reader's inputs (Optimal
    Brain Surgeon, Hassibi 1993, for channels instead of weights). It is multiplied by the mean
    squared gradient of the input and summed over the readers; the sum ranks the channels of a
    group. Channels go step by step, and a channel that is gone explains nothing.

    A reader that runs on all levels of a pyramid weighs each level by the gradients at its
    positions: the finest level has most positions and often the fewest objects. The scale between
    groups comes from the squared effects of channels on single images, which include what
    gradients of single positions add up to. Gradients are those of a :class:`PredictionProbe`,
    whose squares are curvatures.
    """

    # Scores are errors, and comparable when divided by the cost that the channel saves.
    per_cost = True

    def collect(self, model, groups, batches):
        moments = _Moments([side for group in groups for side in group.readers])
        example = distributed.from_first(lambda: batches[0][:1])
        probe = PredictionProbe(model, example)
        effects = EffectImportance(torch.square, probe)
        with forward_hooks(moments.layers, moments.see, before=True):
            effects.collect(model, groups, batches, [probe, *moments.sums])
        moments.add_up()
        self.scores = {
            group.root: _scores(
                effects.scores[group.root].double(), [moments.of(side) for side in group.readers]
            )
            for group in groups
        }


@IMPORTANCES.register()
def obs():
    """Optimal Brain Surgeon for channels: see :class:`OBS`."""
    return OBS()


class _Moments:
    """Second moments of the inputs of layers, a constant among them, and of their gradients.

    A linear that reads a flattened map reads each channel many times: every time is a row.
    """

    def __init__(self, sides):
        self._times = {}
        for side in sides:
            times = _times_read(side)
            self._times[side.layer] = min(times, self._times.get(side.layer, times))
        # Of the inputs, of their gradients, and the weights of the rows of the first.
        self.sums = [SumsByOwner(self.layers) for _ in range(3)]

    @property
    def layers(self):
        """All readers, each once."""
        return self._times.keys()

    def see(self, layer, inputs):
        """Forward pre-hook of the readers."""
        # A separate view: other readers of the tensor have other gradients.
        x = inputs[0].view_as(inputs[0])
        if x.requires_grad:
            # Not x itself: a graph whose hook holds a tensor of it is never freed.
            seen = x.detach()
            x.register_hook(lambda gradient: self._see_gradient(layer, seen, gradient))
        return (x, *inputs[1:])

    def _see_gradient(self, layer, x, gradient):
        squares = self._rows(layer, gradient).square().sum(0)
        rows = self._rows(layer, x)
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
        weight = squares.sum() / max(len(rows), 1)
        for sums, amount in zip(self.sums, (weight * (rows.T @ rows), squares, weight * len(rows))):
            sums.add(layer, amount)

    def add_up(self):
        """Take what all processes have seen."""
        for sums in self.sums:
            sums.of = distributed.summed(sums.of, self.layers)

    def _rows(self, layer, x):
        rows = (x if isinstance(layer, nn.Linear) else x.movedim(1, -1)).flatten(0, -2)
        return rows.unflatten(1, (-1, self._times[layer])).transpose(1, 2).flatten(0, 1)

    def of(self, side):
        """Statistics of a reader for the channels of a group.

        Args:
            side (LayerSide): of the reader.

        Returns:
            tuple[Tensor, Tensor, Tensor, Tensor] | None: second moments of all inputs and the
            constant, squared gradients of the inputs, which inputs the group's are, and which
            channels they stand for. None for a layer that no image or no gradient reached.
        """
        layer, inputs, channels = side.layer, side.entries, side.channels
        second, gradients, weight = (sums.of.get(layer) for sums in self.sums)
        if weight is None or not weight > 0:
            return None
        second = second.double() / weight.double()
        groups = getattr(layer, "groups", 1)
        if groups > 1:
            # Only channels of the same group of a conv can replace one.
            part = torch.arange(len(second) - 1, device=second.device) // (len(second) // groups)
            second[:-1, :-1] *= part[:, None] == part
        times = self._times[layer]
        inputs, channels = inputs[::times] // times, channels[::times]
        return second, gradients.double(), inputs.to(second.device), channels.to(second.device)


def _times_read(side):
    """How many inputs in a row stand for the same channel; 1 if that differs between channels."""
    inputs, channels = side.entries, side.channels
    if not isinstance(side.layer, nn.Linear):
        return 1
    times = len(inputs) // (int(channels.max()) + 1)
    runs = torch.arange(len(inputs)) // times
    return times if torch.equal(channels, channels[::times][runs]) else 1


def _scores(effects, moments):
    """Scores of one group: costs of its channels in the order in which they go.

    Args:
        effects (Tensor): (width,), squared effects on the predictions.
        moments (list[tuple | None]): of the readers, from :meth:`_Moments.of`.

    Returns:
        Tensor: (width,).
    """
    state, alone = [], torch.zeros_like(effects)
    for second, gradients, inputs, channels in filter(None, moments):
        squares = second.diagonal()[:-1].clone()
        alone.index_add_(0, channels, (gradients * squares)[inputs])
        penalty = _RIDGE * squares.mean() + 1e-12
        second.diagonal().add_(penalty)
        state.append((torch.linalg.inv(second), penalty, gradients, inputs, channels))
    if not alone.sum() > 0:
        return effects
    scores, highest = torch.zeros_like(effects), effects.new_zeros(())
    left = torch.ones_like(effects, dtype=torch.bool)
    while left.any():
        costs = torch.zeros_like(effects)
        for inverse, penalty, gradients, inputs, channels in state:
            # The penalty is part of the remaining variance, at most all of it.
            variances = (1 / inverse.diagonal()[:-1] - penalty).clamp(min=0)
            costs.index_add_(0, channels, (gradients * variances)[inputs])
        costs[~left] = math.inf
        going = costs.argsort()[: min(-(-len(costs) // _STEPS), int(left.sum()))]
        scores[going] = costs[going].cummax(0).values.clamp(min=highest)
        highest = scores[going[-1]]
        left[going] = False
        for inverse, _, _, inputs, channels in state:
            gone = inputs[torch.isin(channels, going)]
            rows = inverse[gone]
            inverse -= rows.T @ torch.linalg.solve(rows[:, gone], rows)
            inverse[gone], inverse[:, gone] = 0, 0
            inverse[gone, gone] = math.inf
    return scores * effects.sum() / alone.sum()
