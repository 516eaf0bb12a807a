"""Importances by name, and the scores of groups."""

import abc

import torch
import torch_pruning as tp
from fvcore.common.registry import Registry

from ... import distributed
from ...checks import similar
from ...errors import ConfigError, PruningError
from .losses import accumulate_gradients

IMPORTANCES = Registry("IMPORTANCE")
IMPORTANCES.__doc__ = """
Registry of channel importances, by the name that ``importance=`` and ``PRUNER.IMPORTANCE`` take.

An entry is a function without arguments. It gives an :class:`Importance`, or a callable from a
group of Torch-Pruning to (width,) scores, such as Torch-Pruning's own importances. The least
important channel has the lowest score; scores are comparable between groups.
"""

# Former names.
_ALIASES = {"surgeon": "obs"}


class Importance(abc.ABC):
    """Base class of importances that score :class:`ChannelGroup` objects.

    A subclass may have two more methods. ``check(groups)`` raises PruningError for groups that it
    cannot score. ``collect(model, groups, batches)`` learns from data before the groups are scored;
    gradients that it leaves are cleared afterwards.

    Attributes:
        per_cost (bool): whether scores are the price of a channel, to be divided by the cost that
            removing the channel saves.
    """

    per_cost = False

    @abc.abstractmethod
    def __call__(self, group):
        """Scores of the channels of one group.

        Args:
            group (ChannelGroup): at its present width.

        Returns:
            Tensor: (width,).
        """


class CollectedImportance(Importance):
    """An importance that learns all its scores from data.

    Attributes:
        scores (dict[str, Tensor]): root of a group → (width,); ``collect`` fills it.
    """

    def __init__(self):
        self.scores = {}

    def __call__(self, group):
        return self.scores[group.root]


def build_importance(importance):
    """The importance that a name or a callable stands for.

    Args:
        importance (str | Callable): a name in :data:`IMPORTANCES`, an :class:`Importance`, or any
            callable from a group of Torch-Pruning to (width,) scores.

    Returns:
        Callable: a new one for a name.

    Raises:
        ConfigError: the name is unknown.
    """
    if callable(importance):
        return importance
    name = importance_name(importance)
    known = sorted(name for name, _ in IMPORTANCES)
    if name not in known:
        raise ConfigError(
            f"importance {importance!r} is not known{similar(name, known)}; known are "
            f"{', '.join(known)}"
        )
    return IMPORTANCES.get(name)()


def importance_name(importance):
    """The name of an importance in messages and files.

    Args:
        importance (str | Callable): as for :func:`build_importance`.

    Returns:
        str: the present name for a former one.
    """
    if isinstance(importance, str):
        return _ALIASES.get(importance, importance)
    return getattr(importance, "__qualname__", type(importance).__name__)


def is_data_driven(importance):
    """Whether scores are computed from data."""
    return hasattr(importance, "collect") or _wants_gradients(importance)


def _wants_gradients(importance):
    # Torch-Pruning's own expect to find them.
    wanting = (tp.importance.GroupTaylorImportance, tp.importance.GroupHessianImportance)
    return isinstance(importance, wanting)


def score_groups(model, groups, importance, batches=None):
    """Scores of all channels of the given groups.

    Args:
        model (nn.Module): inside the prunable view.
        groups (list[ChannelGroup]): groups at their present widths.
        importance (Callable): from :func:`build_importance`.
        batches (list[list[dict]]): for data-driven importances.

    Returns:
        list[Tensor]: (width,) float64 on the CPU for each group, finite.

    Raises:
        PruningError: the importance cannot score a group, or a score is missing, of the wrong
            length, or not finite.
    """
    # Callables that are no Importance know Torch-Pruning's groups.
    takes_channel_groups = isinstance(importance, Importance)
    shown = groups if takes_channel_groups else [group.handle for group in groups]
    if hasattr(importance, "check"):
        importance.check(groups)
    if hasattr(importance, "collect"):
        importance.collect(model, shown, batches)
    elif _wants_gradients(importance):
        accumulate_gradients(model, batches)
        _add_up_gradients(model)
    scores = []
    for group, each in zip(groups, shown):
        score = importance(each)
        shape = tuple(getattr(score, "shape", ()))
        if shape != (group.width,) or not torch.isfinite(score).all():
            raise PruningError(
                f"the importance gave no finite score for each channel of {group.root}; "
                "try importance='magnitude'"
            )
        scores.append(score.detach().double().cpu())
    model.zero_grad(set_to_none=True)
    # Random scores differ, and on different machines the last digits of all others.
    return distributed.from_first(lambda: scores)


def _add_up_gradients(model):
    """Take the gradients of all processes."""
    gradients = {p: p.grad for p in model.parameters() if p.grad is not None}
    for p, total in distributed.summed(gradients, model.parameters()).items():
        p.grad = total
