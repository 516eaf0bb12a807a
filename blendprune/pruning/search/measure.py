"""Measuring sensitivity: the losses with channels of one group after the other masked."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from ... import distributed
from ...checks import check_callable
from ...errors import ConfigError
from ..graph.inputs import example_inputs_for, few_images
from ..graph.masking import masking
from ..graph.proof import proven_graph
from ..scores import as_batches, build_importance, importance_name, mean_loss, score_groups
from ..tracing.entry import entry_point, refuse_nonfinite
from ..tracing.snapshot import Snapshot
from ..tracing.view import prunable
from .digests import data_digests, digest
from .options import PruningOptions
from .search import channel_order
from .sensitivity import GroupSensitivity, Sensitivity
from .sensitivity_file import check_output, load_sensitivity
from .unfinished import UnfinishedSensitivity

#: Fractions of a group's channels that are masked by default.
RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)


@entry_point
def measure_sensitivity(
    model: nn.Module,
    example_inputs: list[dict[str, Any]] | None = None,
    *,
    data: Iterable[list[dict[str, Any]]] | None = None,
    importance: str | Callable[..., Tensor] = "obs",
    ratios: Sequence[float] | None = None,
    path: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Sensitivity:
    """Measure how the training losses rise when single groups lose channels.

    The model stays unchanged. In one group after the other, the least important channels are
    masked, which equals removing them. The losses are those of the model in training mode with
    norms at their running statistics, as for scores from data. Random choices of the training are
    the same each time. Nothing is reconstructed: the rises are above those of pruning with
    reconstruction.

    Args:
        model (nn.Module), example_inputs (list[dict]): as of :func:`blendprune.prune`.
        data (Iterable[list[dict]]): batches as detectron2's training loaders give them, read as by
            :func:`blendprune.prune`; not needed where ``path`` holds a measurement.
        importance (str | Callable): decides which channels of a group go first.
        ratios (Sequence[float]): fractions of a group's channels to mask; :data:`RATIOS`, or what
            the file has.
        path (str): a JSON file for the measurement, any address PathManager knows. If the file
            exists, it is read and nothing runs. Until it does, ``path`` with ``.unfinished`` behind
            it has the groups that are measured: if the measurement is interrupted, the same call
            goes on from there. What is of other weights, score, ratios or images is not used.
        progress (Callable): called as ``progress(done, groups)`` after each group.

    Returns:
        Sensitivity: a curve for each group that may be pruned.

    Raises:
        ConfigError: an argument is invalid, or the file is of other weights, score or ratios.
        CheckpointError: the file cannot be written.
        PruningError: the model cannot be traced; its weights or its losses are not finite.
    """
    from detectron2.utils.file_io import PathManager

    if ratios is not None:
        ratios = _check_ratios(ratios)
    options = PruningOptions(importance=importance)
    check_callable("progress", progress)
    check_output(path)
    found = distributed.from_first(
        lambda: load_sensitivity(path) if path and PathManager.isfile(path) else None
    )
    if found is not None:
        found.check(model, importance, repr(path), ratios)
        return found
    if data is None:
        raise ConfigError("sensitivity is measured on data: pass data=… (of a training loader)")
    refuse_nonfinite(model)
    weights = digest(model)
    distributed.check_same("weights", lambda: weights)
    batches, _ = as_batches(data, model)
    shown = distributed.from_first(lambda: few_images(batches))
    inputs = example_inputs_for(model, example_inputs, shown)
    found = Sensitivity(
        weights=weights,
        importance=importance_name(importance),
        ratios=list(ratios or RATIOS),
        images=sum(distributed.gathered(sum(map(len, batches)))),
        loss=0.0,
    )
    unfinished = UnfinishedSensitivity(path, data_digests(batches) if path else [])
    snapshot = Snapshot(model)
    try:
        with prunable(model):
            _, groups = proven_graph(model, inputs, batches=shown)
            groups = [group for group in groups if group.prunable]
            begun = distributed.from_first(lambda: unfinished.read(found, groups))
            if begun is None:
                scores = score_groups(model, groups, build_importance(options.importance), batches)
                found.loss = mean_loss(model, batches)
            else:
                found, scores = begun
            for done, (group, score) in enumerate(zip(groups, scores), 1):
                if group.root not in found.groups:
                    found.groups[group.root] = _measure(model, group, score, batches, found.ratios)
                    distributed.from_first(lambda: unfinished.write(found, groups, scores))
                if progress is not None:
                    progress(done, len(groups))
    finally:
        snapshot.restore()
    if path:
        distributed.from_first(lambda: found.save(path))
        distributed.from_first(unfinished.remove)
    return found


def _measure(model, group, score, batches, ratios):
    order = channel_order(group, score)
    blocks = order.shape[1] // group.block_size
    masked, losses = [], []
    for ratio in ratios:
        # Whole blocks, the same in each part; at least one goes and at least one stays.
        count = group.block_size * min(max(1, round(ratio * blocks)), blocks - 1)
        gone = order[:, :count].flatten()
        with masking([(group, gone)]):
            losses.append(mean_loss(model, batches))
        masked.append(len(gone))
    return GroupSensitivity(group.width, masked, losses)


def _check_ratios(ratios):
    ratios = list(ratios) if isinstance(ratios, Iterable) else ratios
    fine = isinstance(ratios, list) and all(isinstance(x, (int, float)) for x in ratios)
    if not (fine and ratios and sorted(set(ratios)) == ratios and 0 < ratios[0] <= ratios[-1] < 1):
        raise ConfigError(
            f"ratios must be ascending numbers between 0 and 1, got {ratios!r}: pass a list such "
            f"as {list(RATIOS)}"
        )
    return ratios
