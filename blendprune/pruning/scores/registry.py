"""Importances by name, and what the rest of the package asks of one."""

import torch_pruning as tp
from fvcore.common.registry import Registry

from ...errors import ConfigError, PruningError
from .losses import accumulate_gradients

IMPORTANCES = Registry("IMPORTANCE")
IMPORTANCES.__doc__ = """
Registry of channel importances, by the name that ``importance=`` and ``PRUNER.IMPORTANCE`` take.

An entry is called without arguments and gives a callable from a group of Torch-Pruning to one score
a channel, the least important lowest, comparable between groups. One that learns from data has
``collect(model, groups, batches)``, called once before it; what it leaves in ``.grad`` is cleared
afterwards. One that does not suit every group has ``check(channel_groups)``, which raises
PruningError. One whose scores are the price of a channel, to be held against what it frees, has a
true ``per_cost``.
"""


class CollectedImportance:
    """One that learns all its scores from data: ``collect`` fills ``scores``, a call looks them up.

    Attributes:
        scores (dict[nn.Module, Tensor]): root layer of a group → (width,).
    """

    def __init__(self):
        self.scores = {}

    def __call__(self, group):
        return self.scores[group[0].dep.target.module]


def build_importance(importance):
    """The importance that a name or a callable stands for.

    Args:
        importance (str | Callable): a name in :data:`IMPORTANCES`, or anything that maps a group
            of Torch-Pruning to (width,) scores, such as Torch-Pruning's own importances.

    Returns:
        Callable: a fresh one for a name.

    Raises:
        ConfigError: no such name.
    """
    if callable(importance):
        return importance
    known = sorted(name for name, _ in IMPORTANCES)
    if importance not in known:
        raise ConfigError(f"importance {importance!r} is not known; known are {', '.join(known)}")
    return IMPORTANCES.get(importance)()


def importance_name(importance):
    """What messages and files call an importance."""
    if isinstance(importance, str):
        return importance
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
        PruningError: the importance does not suit a group, or a score is missing, of the wrong
            length, or not finite.
    """
    handles = [group.handle for group in groups]
    if hasattr(importance, "check"):
        importance.check(groups)
    if hasattr(importance, "collect"):
        importance.collect(model, handles, batches)
    elif _wants_gradients(importance):
        accumulate_gradients(model, batches)
    scores = []
    for group, handle in zip(groups, handles):
        score = importance(handle)
        if score is None or tuple(score.shape) != (group.width,) or not score.isfinite().all():
            raise PruningError(
                f"the importance gave no finite score for each channel of {group.root}; "
                "try importance='magnitude'"
            )
        scores.append(score.detach().double().cpu())
    model.zero_grad(set_to_none=True)
    return scores
