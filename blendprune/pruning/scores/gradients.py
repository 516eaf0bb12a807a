"""Importances from gradients of the training losses, image by image."""

import torch
import torch_pruning as tp

from ... import distributed
from ..graph.layer_sides import sum_by_input
from .losses import accumulate_gradients, training_loss
from .partial_sums import SumsByOwner
from .registry import IMPORTANCES, CollectedImportance, Importance


class EffectImportance(CollectedImportance):
    """Effects of a channel on the losses of single images, added up.

    The effect on an image is the gradient of a mask on the channel, summed over everything that
    reads it (:func:`channel_effect`). Signs are kept within an image and dropped between images.
    Torch-Pruning's Taylor sums gradients over the images first and drops the signs of single
    weights; after the same pruning of a BlendMask R-18 it left a third of the mask AP.

    Args:
        of_image (Callable): effects of the channels on one image, (width,) → their contribution.
        loss (Callable): as for :func:`accumulate_gradients`.
    """

    def __init__(self, of_image, loss=training_loss):
        super().__init__()
        self.of_image, self.loss = of_image, loss

    def collect(self, model, groups, batches, sums=()):
        """Learn the scores; other ``sums`` grow beside them, see :func:`accumulate_gradients`."""
        self.scores = {}

        def observe():
            for group in groups:
                added = self.of_image(channel_effect(group))
                self.scores[group.root] = self.scores.get(group.root, 0) + added

        accumulate_gradients(model, batches, observe, self.loss, [self, *sums])
        self.scores = distributed.summed(self.scores)

    def state_dict(self):
        """The scores so far."""
        return dict(self.scores)

    def load_state_dict(self, state):
        """Go on from scores so far."""
        self.scores = dict(state)


def channel_effect(group):
    """First-order effect of each channel of a group on the value that was differentiated.

    It is the gradient of a mask on the channel wherever it is read.

    Args:
        group (ChannelGroup): gradients of the weights are set.

    Returns:
        Tensor: (width,), the sum of weight · gradient over all convs and linears that read the
        channel; layers that no gradient reached count nothing.
    """
    effect = group.root_layer.weight.new_zeros(group.width)
    for side in group.readers:
        weight = side.layer.weight
        if weight.grad is not None:
            amounts = sum_by_input(side.layer, weight.detach() * weight.grad)
            entries = side.entries.to(effect.device)
            effect.index_add_(0, side.channels.to(effect.device), amounts[entries])
    return effect


@IMPORTANCES.register()
def taylor():
    """How much the losses move, to first order, when the channel goes (arXiv:1906.10771)."""
    return EffectImportance(torch.abs)


@IMPORTANCES.register()
def fisher():
    """How much the losses rise, to second order, when the channel goes: Group Fisher Pruning.

    Half the squared gradient of the channel's mask, per image, the mask shared by the whole
    coupled group (arXiv:2108.00708). The paper divides by the memory that a channel frees:
    that is ``normalize="activations"``.
    """
    return EffectImportance(lambda effect: effect.square() / 2)


class Hessian(Importance):
    """Optimal Brain Damage: weight² · curvature over all weights of the group (LeCun 1989).

    The curvature is the mean squared gradient of single images. The formula is Torch-Pruning's, in
    the unit of the losses: summed over the layers, not divided by the group's mean. Its own
    ``accumulate_grad`` keeps only the last image (1.6.1); the gradients are added up here.
    """

    def __init__(self):
        self._scores = tp.importance.GroupHessianImportance(group_reduction="sum", normalizer=None)

    def collect(self, model, groups, batches):
        squares = SumsByOwner(model.parameters())

        def observe():
            for p in model.parameters():
                if p.grad is not None:
                    squares.add(p, p.grad.square())

        accumulate_gradients(model, batches, observe, sums=[squares])
        squares = distributed.summed(squares.of, model.parameters())
        count = sum(distributed.gathered(sum(len(batch) for batch in batches)))
        for p, total in squares.items():
            p.grad = total / count

    def __call__(self, group):
        score = self._scores(group.handle)
        # Torch-Pruning gives None for a group that no gradient reached; its effect is 0.
        return torch.zeros(group.width) if score is None else score


@IMPORTANCES.register()
def hessian():
    """Optimal Brain Damage: see :class:`Hessian`."""
    return Hessian()
