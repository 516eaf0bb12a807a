"""The one call: prune a model in place to a target."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from .. import distributed
from ..checks import check_callable
from ..config.target import Target
from ..errors import ConfigError
from .graph.inputs import example_inputs_for
from .scores import as_batches, build_importance, importance_name, is_data_driven
from .search.history import History, identity_of
from .search.options import LayerRatios, PruningOptions, check_rounds
from .search.result import PruningReport
from .search.rounding import AUTO
from .search.rounds import PruningRun
from .search.sensitivity import Sensitivity
from .search.sensitivity_file import load_sensitivity
from .tracing.entry import entry_point, refuse_nonfinite
from .tracing.snapshot import Snapshot

_GOES_ON = "went on behind round {} of an interrupted prune: seconds are those since then"


@entry_point(changes_widths=True)
def prune(
    model: nn.Module,
    example_inputs: list[dict[str, Any]] | None = None,
    *,
    pruning_ratio: float | None = None,
    max_flops: float | None = None,
    max_params: float | None = None,
    max_activations: float | None = None,
    max_memory: float | None = None,
    max_latency: float | None = None,
    runtime: str = "eager",
    importance: str | Callable[..., Tensor] = "obs",
    normalize: Literal["flops", "params", "activations"] | None = None,
    reconstruct: bool = True,
    sensitivity: str | Sensitivity | None = None,
    global_pruning: bool = True,
    isomorphic: bool = False,
    round_to: int | Literal["auto"] = AUTO,
    rounds: int | None = None,
    levels: Sequence[float] = (),
    max_pruning_ratio: float = 0.9,
    ignored_layers: Sequence[str | nn.Module] = (),
    pruning_ratio_dict: LayerRatios | None = None,
    data: Iterable[list[dict[str, Any]]] | None = None,
    progress: Callable[[int, int], object] | None = None,
    on_level: Callable[[float, PruningReport], object] | None = None,
    on_round: Callable[[dict[str, Any]], object] | None = None,
    resume: dict[str, Any] | None = None,
) -> PruningReport:
    """Remove channels from ``model`` in place until a target is met.

    Prediction layers keep their width. If anything fails, the model stays as it was. The caller's
    autocast, ``no_grad``, ``inference_mode``, default dtype and default device do not matter. Each
    argument
    that says how to prune is also a key of the config's ``PRUNER`` node, in capitals. Exactly one
    target is set: ``pruning_ratio`` or a ``max_…``.

    Args:
        model (nn.Module): a detectron2-style model, on any device.
        example_inputs (list[dict]): detectron2's format, ``"image"`` of (C, H, W). FLOPs and
            latency are those for these images. None: one random image of the size and channels of
            the config that the model carries, else the first image of ``data``.
        pruning_ratio (float): fraction of the channels to remove, of every group if ranked
            locally, of all together if globally; less by up to a step where widths come in steps.
        max_flops (float): FLOPs to keep, as a fraction of the given model's, which may have been
            pruned before. One multiply-add is one FLOP. The target is met from below, within 2 %.
        max_params (float): parameters to keep, as a fraction; met likewise.
        max_activations (float): numbers in the outputs of all convs and linears to keep, as a
            fraction; met likewise.
        max_memory (float): bytes of the activation tensors that are alive together, at their peak
            in one forward of the example inputs up to the raw head outputs, to keep, as a fraction,
            or in megabytes (10^6 bytes) from 1 on. Weights do not count. The target is a limit:
            only layers that are in memory at a peak are pruned.
        max_latency (float): latency to keep on this machine, as a fraction, or from 1 on in
            milliseconds: that of inference on the example inputs, images to instances, with
            what the dense model takes for decoding and NMS. Times of single layers at many widths
            choose the widths; they are measured once and kept. The model as a whole is timed in
            turns with the dense one after each round, until it is within 2 % of the target.
        runtime (str): the form that is timed: ``"eager"``, ``"deployed"``, ``"bfloat16"``,
            ``"float16"``, ``"compiled"``, ``"onnxruntime"`` or ``"openvino"``; see
            :func:`blendprune.bench`.
        importance (str | Callable): a name in ``blendprune.pruning.IMPORTANCES``, or a callable
            from a group of Torch-Pruning to (width,) scores.
        normalize (str): divides each score by the cost that removing the channel saves:
            ``"flops"``, ``"params"`` or ``"activations"``. None: ``"obs"`` and ``sensitivity`` use
            the target's unit, all others none. Group Fisher Pruning (arXiv:2108.00708) is
            ``importance="fisher"`` with ``"activations"``.
        reconstruct (bool): with ``data``, refit the remaining weights to the dense model's outputs
            after each round. It reads no labels and needs no gradients.
        sensitivity (str | Sensitivity): decides how much of each group goes, by the loss that it
            costs per FLOP (parameter, …) saved. The curves are those of
            :func:`blendprune.measure_sensitivity` for this model and importance, or its file; the
            importance decides which channels go. The search is greedy and takes the costs at the
            present widths in each round. The curves are those of the dense model.
        global_pruning (bool): rank the channels of all groups together.
        isomorphic (bool): rank groups of the same structure together (arXiv:2407.04616).
        round_to (int | str): new widths are multiples of it; 1 leaves them free. ``"auto"``: the
            multiple that the model's device runs well (16 with AVX-512 or CUDA, else 8), for layers
            of at least eight times that width; narrower layers are free. If such widths do not meet
            the target, it takes smaller multiples, and a note says so.
        rounds (int): number of rounds, with new scores in each. None: the fewest rounds of which
            each keeps at least 0.65 of the target's cost (of the channels for a ratio).
        levels (Sequence[float]): targets of the same kind on the way: fractions, or absolute
            numbers if the target is one. The model is pruned to each
            in ``rounds`` rounds, and from there to the next. Later targets do not change the model
            at an earlier one.
        max_pruning_ratio (float): no group loses more than this fraction of its channels.
        ignored_layers (Sequence[str | nn.Module]): layers whose output width stays, by module,
            name, or glob pattern of names. A container stands for everything in it. A layer shares
            its channels with others (``blendprune.plan`` shows which), and all of them stay.
        pruning_ratio_dict (dict[str | nn.Module, float]): layers, given likewise → the fraction of
            their channels to remove, 0 ≤ x < 1, with any target. The rest of the model meets the
            target. Every group with an output that an entry names loses that fraction,
            or slightly less where its widths come in steps. Of several entries for a group the
            last counts; ``ignored_layers`` precedes. A list of pairs also works.
        data (Iterable[list[dict]]): batches as detectron2's training loaders give them, for scores
            from data and for reconstruction. What has a length is read whole. Of a loader that
            never ends, or of any other iterable without a length, PRUNER.CALIBRATION_IMAGES of the
            config that the model carries (else 64) are read, and the report has a note. Labels are
            not read by reconstruction, ``"activation"`` and ``"wanda"``. Inside
            ``blendprune.distributed.together()`` it is the share of the process.
        progress (Callable): called as ``progress(done, rounds)`` after each round; each level
            counts its own rounds.
        on_level (Callable): called as ``on_level(level, report)`` while the model is at a level, to
            save or evaluate it. The target's own report is returned instead.
        on_round (Callable): called as ``on_round(state)`` after each round, and every five minutes
            of a scoring by gradients in one process, to save the state, of plain data and tensors:
            ``torch.load(…, weights_only=True)`` reads it. Not with ``max_latency``, whose rounds
            follow a clock.
        resume (dict): a state that an interrupted prune of the same model, data and arguments gave
            to ``on_round``: the prune goes on from there, and ends (on the CPU, bit for bit)
            like one that was not interrupted. ``on_level`` is not called for levels before it. What
            is of another prune is not used; the log says why.

    Returns:
        PruningReport: FLOPs, parameters, widths.

    Raises:
        ConfigError: an argument is invalid, or the model meets an absolute target anyway; or
            ``resume`` does not fit the model.
        TargetUnreachable: no allowed widths meet the target.
        PruningError: the model cannot be traced, scored or run; its weights hold NaN, or are of
            half precision or on the meta device.
    """
    start = time.perf_counter()
    target = Target.only(
        {
            "pruning_ratio": pruning_ratio,
            "max_flops": max_flops,
            "max_params": max_params,
            "max_activations": max_activations,
            "max_memory": max_memory,
            "max_latency": max_latency,
        }
    )
    options = PruningOptions(
        importance=importance,
        normalize=normalize,
        reconstruct=reconstruct,
        global_pruning=global_pruning,
        isomorphic=isomorphic,
        round_to=round_to,
        max_pruning_ratio=max_pruning_ratio,
        ignored_layers=ignored_layers,
        pruning_ratio_dict=pruning_ratio_dict,
        runtime=runtime,
        device=next(model.parameters()).device,
    )
    options.check_target(target)
    rounds = check_rounds(rounds)
    levels = target.levels(levels)
    check_callable("progress", progress)
    check_callable("on_level", on_level)
    check_callable("on_round", on_round)
    sensitivity = _check_sensitivity(sensitivity, model, options)
    if data is None and is_data_driven(build_importance(importance)):
        raise ConfigError(
            f"importance {importance_name(importance)!r} is computed from data: pass data=… "
            "(batches of a training loader), or use importance='magnitude'"
        )
    options.check_layers(model)
    refuse_nonfinite(model)
    batches, reading = (None, []) if data is None else as_batches(data, model)
    inputs = distributed.from_first(lambda: example_inputs_for(model, example_inputs, batches))

    history = History()
    if target.unit != "latency" and (on_round is not None or resume is not None):
        how = (target, levels, rounds)
        identity = identity_of(model, inputs, batches, sensitivity, options, how)
        history = History(identity, resume, on_round)
    if history.repeats:
        reading = [*reading, _GOES_ON.format(history.repeats)]
    snapshot = Snapshot(model)
    try:
        memory = target.unit == "memory"
        run = PruningRun(model, inputs, options, batches, sensitivity, memory, history)

        def after_round(done, rounds):
            history.keep(model, run.notes)
            if progress is not None:
                progress(done, rounds)

        for level in [*levels, target]:
            run.reach(level, rounds, after_round, goal=target)
            if history.is_behind:
                continue
            run.try_own_runs(snapshot)
            report = run.report()
            report = replace(
                report, notes=reading + report.notes, wall_s=time.perf_counter() - start
            )
            if on_level is not None and level is not target:
                on_level(level.value, report)
        return report
    except BaseException:
        snapshot.restore()
        raise


def _check_sensitivity(sensitivity, model, options):
    if not sensitivity:
        return None
    if options.isomorphic or not options.global_pruning:
        raise ConfigError(
            "sensitivity weighs all groups against one another: leave global_pruning True and "
            "isomorphic False"
        )
    found, source = sensitivity, "the sensitivity"
    if isinstance(sensitivity, str):
        found, source = load_sensitivity(sensitivity), repr(sensitivity)
    if not isinstance(found, Sensitivity):
        raise ConfigError(
            f"sensitivity is a {type(found).__name__}: pass the path of a measurement, or what "
            "blendprune.measure_sensitivity returns"
        )
    found.check(model, options.importance, source)
    return found
