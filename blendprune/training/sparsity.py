"""Group sparsity: the least important channels decay in training, before they are pruned."""

import torch
from detectron2.engine.train_loop import HookBase

from ..errors import ConfigError
from ..pruning.graph.layer_sides import sum_by_input
from ..pruning.graph.proof import proven_graph
from ..pruning.tracing.view import prunable
from ..wrappers import unwrap
from .trainer_data import example_inputs_of

# Norm of a channel that has faded, as a fraction of the largest of its group.
_FAINT = 0.01


class GroupSparsity(HookBase):
    """Weight decay over whole coupled groups; less important channels decay faster.

    DepGraph's regulariser (arXiv:2301.12900, §3.3): channel k of a group decays at the rate
    ``strength · 2^(alpha · (I_max − I_k) / (I_max − I_min))``, where I is the L2 norm of all its
    weights in the group. The strength grows in proportion to the iterations done and is complete at
    the last one, as in growing regularisation (arXiv:2012.09243). The decay is decoupled from the
    gradient, as in AdamW (arXiv:1711.05101): after each step the weights shrink by that rate times
    their learning rate. It therefore means the same with any optimizer, mixed precision and
    gradient clipping, and keeps the copies of DistributedDataParallel equal.

    Args:
        strength (float): rate of decay of the most important channel of a group at the end.
        alpha (float): the least important decays 2^alpha times as fast.
        period (int): iterations between two rankings.
        example_inputs (list[dict]): detectron2's format, to trace the model; as for
            :func:`blendprune.prune`.
        ignored_layers (Sequence[str | nn.Module]): layers whose channels are left alone.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(self, strength, *, alpha=4.0, period=100, example_inputs=None, ignored_layers=()):
        numbers = all(isinstance(x, (int, float)) for x in (strength, alpha))
        whole = isinstance(period, int)
        if not numbers or not whole or not strength > 0 or not alpha >= 0 or period < 1:
            raise ConfigError(
                "group sparsity wants strength > 0, alpha >= 0 and a period of at least 1, got "
                f"{strength!r}, {alpha!r} and {period!r}: set them so"
            )
        self.strength, self.alpha, self.period = strength, alpha, period
        self.example_inputs, self.ignored_layers = example_inputs, ignored_layers
        self._groups, self._paces = None, []

    def before_train(self):
        known = self._paces
        self._trace()
        # A training that resumes decays by the last ranking until the next one is due.
        if [len(each) for each in known] == [len(each) for each in self._paces]:
            self._paces = [each.to(own) for each, own in zip(known, self._paces)]

    def state_dict(self):
        return {"paces": self._paces}

    def load_state_dict(self, state_dict):
        self._paces = state_dict["paces"]

    def after_step(self):
        model = unwrap(self.trainer.model)
        if [p.shape for p in model.parameters()] != self._shapes:
            self._trace()  # the model was pruned meanwhile
        if self.trainer.iter % self.period == 0:
            self._rank()
            # What a channel has become, not a noisy sample of it.
            self.trainer.storage.put_scalar("faded", self.faded(), smoothing_hint=False)
        grown = (self.trainer.iter + 1) / self.trainer.max_iter
        rates = {
            p: group["lr"] * self.strength * grown
            for group in self.trainer.optimizer.param_groups
            for p in group["params"]
        }
        with torch.no_grad():
            for sides, pace in zip(self._groups, self._paces):
                for side in sides:
                    rate = rates.get(side.weight, 0.0)
                    if rate and side.weight.requires_grad:
                        side.scale((1 - rate * pace).clamp(min=0))

    def norms(self):
        """L2 norm of every channel over its group.

        Returns:
            list[Tensor]: (width,) for each group that may be pruned.
        """
        with torch.no_grad():
            return [sum(side.squares() for side in sides).sqrt() for sides in self._groups]

    def faded(self):
        """How much there is to prune at no cost.

        Returns:
            float: fraction of the channels with a norm under 1 % of the largest of their group.
                The training logs it as ``faded``.
        """
        faint = [norm < _FAINT * norm.max() for norm in self.norms()]
        return float(torch.cat(faint).float().mean()) if faint else 0.0

    def _trace(self):
        model = unwrap(self.trainer.model)
        inputs = example_inputs_of(model, self.example_inputs, self.trainer)
        with prunable(model):
            _, groups = proven_graph(model, inputs, self.ignored_layers)
        # Outside the view, where FrozenBN has no parameters.
        self._groups = [
            [_Side(side, group.width) for side in group.sides if _has_weight(side.layer)]
            for group in groups
            if group.prunable
        ]
        self._shapes = [p.shape for p in model.parameters()]
        self._rank()

    def _rank(self):
        self._paces = []
        for norm in self.norms():
            span = (norm.max() - norm.min()).clamp(min=1e-12)
            self._paces.append(2 ** (self.alpha * (norm.max() - norm) / span))


def _has_weight(layer):
    return layer._parameters.get("weight") is not None


class _Side:
    """One side of one layer: how its weight divides among the channels of a group."""

    def __init__(self, side, width):
        self.layer, self.reads, self.width = side.layer, side.reads, width
        self.transposed = getattr(self.layer, "transposed", False)
        device = self.weight.device
        self.own, self.roots = side.entries.to(device), side.channels.to(device)

    @property
    def weight(self):
        return self.layer.weight

    def squares(self):
        """Sum of squared weights of each channel of the group: (width,)."""
        squares = self.weight.square()
        if self.reads:
            own = sum_by_input(self.layer, squares)
        else:
            own = self._outputs_first(squares).flatten(1).sum(1) if squares.dim() > 1 else squares
        total = self.weight.new_zeros(self.width)
        return total.index_add_(0, self.roots, own[self.own])

    def scale(self, factors):
        """Multiply what belongs to each channel of the group by its factor, in place."""
        if self.reads:
            own = self._factors(factors, sum_by_input(self.layer, self.weight).numel())
            groups = 1 if self.transposed else getattr(self.layer, "groups", 1)
            # Inputs of a grouped conv: those of its groups follow one another.
            own = own.view(groups, -1).repeat_interleave(len(self.weight) // groups, 0)
            if self.transposed:
                own = own[:1].T
            self.weight.mul_(own.view(*own.shape, *[1] * (self.weight.dim() - 2)))
        else:
            view = self._outputs_first(self.weight)
            own = self._factors(factors, len(view))
            view.mul_(own.view(-1, *[1] * (view.dim() - 1)))

    def _factors(self, factors, count):
        own = factors.new_ones(count)
        own[self.own] = factors[self.roots]
        return own

    def _outputs_first(self, weight):
        return weight.transpose(0, 1) if self.transposed else weight
