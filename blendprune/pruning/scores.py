"""Importance of channels: which go first."""

import contextlib
import itertools

import torch
import torch_pruning as tp
from detectron2.utils.events import EventStorage
from fvcore.common.registry import Registry
from torch import nn

from ..errors import ConfigError, PruningError
from .view import is_prunable_layer

IMPORTANCES = Registry("IMPORTANCE")
IMPORTANCES.__doc__ = """
Registry of channel importances, by the name that ``importance=`` and ``PRUNER.IMPORTANCE`` take.

An entry is called without arguments and gives a callable from a group of Torch-Pruning to one score
a channel, the least important lowest, comparable between groups. One that needs gradients has
``data_driven = True``, and to see each image alone ``reset()`` and ``observe(groups)``, called
before the first and after each backward pass.
"""

_MOST_BATCHES = 10_000


@IMPORTANCES.register()
def magnitude():
    """L2 norm of all weights of the group, over the group's mean (DepGraph, arXiv:2301.12900)."""
    return tp.importance.GroupMagnitudeImportance(p=2)


@IMPORTANCES.register()
def lamp():
    """Layer-adaptive magnitude (arXiv:2010.07611)."""
    return tp.importance.LAMPImportance()


@IMPORTANCES.register()
def fpgm():
    """Distance to the other filters (arXiv:1811.00250)."""
    return tp.importance.FPGMImportance()


@IMPORTANCES.register()
def random():
    """Uniformly random, from torch's global generator: the control of every comparison."""
    return tp.importance.RandomImportance()


class Taylor:
    """How much the losses move, to first order, when the channel goes (arXiv:1906.10771).

    For each image, weight · gradient is summed with its sign over everything that reads the
    channel, which is the first-order effect of the channel falling silent; absolute values add up
    over the images. Signs kept within an image and dropped between images make the score:
    Torch-Pruning's sums gradients over the images first and drops the signs of single weights, and
    left a third of the mask AP that this one leaves, after the same cut of a BlendMask R-18.
    """

    data_driven = True

    def __init__(self):
        self.reset()

    def reset(self):
        self._sums = {}

    def observe(self, groups):
        for group in groups:
            root = group[0].dep.target.module
            self._sums[root] = self._sums.get(root, 0) + channel_effect(group).abs()

    def __call__(self, group):
        return self._sums[group[0].dep.target.module]


@IMPORTANCES.register()
def taylor():
    """First-order effect on the losses: see :class:`Taylor`."""
    return Taylor()


def channel_effect(group):
    """First-order effect of each channel of a group on what the gradients are of.

    Args:
        group (tp.dependency.Group): with all channels; gradients of the weights are set.

    Returns:
        Tensor: (width,), the sum of weight · gradient over all convs and linears that read the
        channel; those that no gradient reached count nothing.
    """
    weight = group[0].dep.target.module.weight
    effect = weight.new_zeros(len(group[0].idxs))
    for item in group:
        layer = item.dep.target.module
        reads = item.dep.handler.__name__ == "prune_in_channels"
        if reads and is_prunable_layer(layer) and layer.weight.grad is not None:
            roots = torch.as_tensor(item.root_idxs, device=effect.device)
            effect.index_add_(0, roots, _by_input(layer)[list(item.idxs)])
    return effect


def _by_input(layer):
    product = layer.weight.detach() * layer.weight.grad
    if getattr(layer, "transposed", False):
        return product.flatten(1).sum(1)
    groups = getattr(layer, "groups", 1)
    # (groups, out / groups, in / groups, kernel): inputs of the groups follow one another.
    product = product.reshape(groups, -1, product.shape[1], product[0, 0].numel())
    return product.sum((1, 3)).flatten()


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


def is_data_driven(importance):
    """Whether scores need gradients of the losses on data."""
    needs = (tp.importance.GroupTaylorImportance, tp.importance.GroupHessianImportance)
    return getattr(importance, "data_driven", isinstance(importance, needs))


def as_batches(data):
    """``data`` as a list of batches, each a non-empty list of detectron2's input dicts.

    Raises:
        ConfigError: no batches, an endless loader, or entries of another form.
    """
    batches = list(itertools.islice(data, _MOST_BATCHES + 1))
    if len(batches) > _MOST_BATCHES:
        raise ConfigError(
            "data does not end (a training loader?): pass itertools.islice(loader, n) instead"
        )
    batches = [[batch] if isinstance(batch, dict) else list(batch) for batch in batches]
    if not batches or not all(batches):
        raise ConfigError("data holds no images: pass batches as detectron2's loaders give them")
    if not all(isinstance(x, dict) and "image" in x for batch in batches for x in batch):
        raise ConfigError('data must give lists of dicts with "image", as detectron2\'s loaders do')
    return batches


def accumulate_gradients(model, batches, after_image=None):
    """Gradients of the summed training losses, in ``.grad`` of every parameter.

    Norms use their running statistics, and those, the modes, and counters that modules keep as
    plain numbers (FCOS's moving average) are left as they were.

    Args:
        model (nn.Module): inside the prunable view, so that frozen stages get gradients too.
        batches (list[list[dict]]): with ``"instances"`` and whatever else the losses need.
        after_image (Callable): called after the backward of each image with its gradients alone;
            if None, gradients add up over the batches.

    Raises:
        PruningError: the losses are not finite, or are no dict.
    """
    if after_image is not None:
        batches = [[image] for batch in batches for image in batch]
    model.zero_grad(set_to_none=True)
    with _training(model):
        for batch in batches:
            if after_image is not None:
                model.zero_grad(set_to_none=True)
            with torch.enable_grad(), EventStorage():
                losses = model(batch)
                if not isinstance(losses, dict):
                    raise PruningError(
                        f"{type(model).__name__} gave no dict of losses in training mode, "
                        "so no importance from data can be had; use importance='magnitude'"
                    )
                total = sum(losses.values())
            if not torch.isfinite(total):
                raise PruningError(
                    "the losses on the calibration data are not finite; check the weights"
                )
            total.backward()
            if after_image is not None:
                after_image()


@contextlib.contextmanager
def _training(model):
    """Training mode but for the norms; on leaving, modes, numbers and buffers are as before."""
    modes = [(m, m.training) for m in model.modules()]
    numbers = [
        (m, {k: v for k, v in vars(m).items() if type(v) in (int, float, bool)})
        for m in model.modules()
    ]
    buffers = [(b, b.clone()) for b in model.buffers()]
    try:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.eval()
            # Under model_prune, forward would leave early and give no losses.
            if getattr(module, "model_prune", False):
                module.model_prune = False
        yield
    finally:
        for module, values in numbers:
            vars(module).update(values)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, mode in modes:
            module.training = mode


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
        PruningError: a score is missing, of the wrong length, or not finite.
    """
    handles = [group.handle for group in groups]
    if is_data_driven(importance):
        observe = getattr(importance, "observe", None)
        getattr(importance, "reset", lambda: None)()
        accumulate_gradients(
            model, batches, after_image=None if observe is None else lambda: observe(handles)
        )
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
