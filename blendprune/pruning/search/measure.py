"""Measuring sensitivity: groups are masked, one after the other, and the losses looked at."""

import contextlib

import torch

from ...errors import ConfigError
from ..graph.channel_graph import ChannelGraph
from ..prune import check_inputs
from ..scores import as_batches, build_importance, importance_name, mean_loss, readers, score_groups
from ..tracing.hooks import forward_hooks
from ..tracing.snapshot import Snapshot
from ..tracing.view import prunable
from .search import channel_order
from .sensitivity import GroupSensitivity, Sensitivity, digest, load_sensitivity

#: Fractions of a group's channels that are masked by default.
RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)


def measure_sensitivity(
    model,
    example_inputs=None,
    *,
    data=None,
    importance="surgeon",
    ratios=None,
    path=None,
    progress=None,
):
    """Measure how the training losses rise when single groups lose channels. Nothing is changed.

    Group by group the least important channels are masked: set to zero wherever they are read,
    which is what their removal comes to, unless a group norm sees them. The losses are those of
    the model in training mode, norms at their running statistics, as scores from data see them;
    what the training draws at random is drawn alike each time. Nothing is reconstructed, so the
    rises are above those of a cut that is.

    Args:
        model (nn.Module), example_inputs (list[dict]): as of :func:`blendprune.prune`.
        data (Iterable[list[dict]]): finite batches as detectron2's training loaders give them; not
            needed where ``path`` holds a measurement.
        importance (str | Callable): the score that says which channels of a group go first.
        ratios (Sequence[float]): fractions of a group's channels to mask; :data:`RATIOS`, or what
            the file has.
        path (str): a JSON file, any address PathManager knows, to keep the measurement in; if it
            is there, it is read, and nothing runs.
        progress (Callable): called as ``progress(done, groups)`` after each group.

    Returns:
        Sensitivity: a curve for each group that may be pruned.

    Raises:
        ConfigError: an argument cannot hold, or the file is of other weights, score or ratios.
        PruningError: the model cannot be traced, or its losses are not finite.
    """
    from detectron2.utils.file_io import PathManager

    if ratios is not None:
        ratios = _check_ratios(ratios)
    build_importance(importance)
    if path and PathManager.isfile(path):
        found = load_sensitivity(path)
        found.check(model, importance, repr(path), ratios)
        return found
    if data is None:
        raise ConfigError("sensitivity is measured on data: pass data=… (of a training loader)")
    batches = as_batches(data)
    inputs = check_inputs(model, example_inputs, batches)
    snapshot = Snapshot(model)
    try:
        found = Sensitivity(
            weights=digest(model),
            importance=importance_name(importance),
            ratios=ratios or list(RATIOS),
            images=sum(map(len, batches)),
            loss=0.0,
        )
        with prunable(model):
            groups = [group for group in ChannelGraph(model, inputs).groups() if group.prunable]
            scores = score_groups(model, groups, build_importance(importance), batches)
            found.loss = mean_loss(model, batches)
            for done, (group, score) in enumerate(zip(groups, scores), 1):
                found.groups[group.root] = _measure(model, group, score, batches, found.ratios)
                if progress is not None:
                    progress(done, len(groups))
    finally:
        snapshot.restore()
    if path:
        found.save(path)
    return found


def _measure(model, group, score, batches, ratios):
    order = channel_order(group, score)
    blocks = order.shape[1] // group.block
    masked, losses = [], []
    for ratio in ratios:
        # Whole blocks, of each part alike; something always goes, and something always stays.
        count = group.block * min(max(1, round(ratio * blocks)), blocks - 1)
        gone = order[:, :count].flatten()
        with masking(group, gone):
            losses.append(mean_loss(model, batches))
        masked.append(len(gone))
    return GroupSensitivity(group.width, masked, losses)


@contextlib.contextmanager
def masking(group, channels):
    """Set channels of a group to zero wherever a layer reads them.

    Args:
        group (ChannelGroup): of a model inside the prunable view.
        channels (Tensor): indices in ``range(group.width)``.
    """
    masks = {}
    for layer, inputs, of in readers(group.handle):
        if layer not in masks:
            count = getattr(layer, "in_channels", None) or layer.in_features
            masks[layer] = layer.weight.new_ones(count)
        masks[layer][inputs[torch.isin(of, channels)]] = 0

    def mask(layer, inputs):
        x, *rest = inputs
        wide = masks[layer]
        if not isinstance(layer, torch.nn.Linear):
            wide = wide.view(-1, *[1] * (x.dim() - 2))
        return x * wide, *rest

    with forward_hooks(masks, mask, before=True):
        yield


def _check_ratios(ratios):
    ratios = list(ratios)
    if not ratios or sorted(set(ratios)) != ratios or not 0 < ratios[0] <= ratios[-1] < 1:
        raise ConfigError(f"ratios must be ascending numbers between 0 and 1, got {ratios}")
    return ratios
