"""The one call: prune a model in place to a target."""

import time
from dataclasses import replace

import torch
import yaml

from ..errors import ConfigError
from .graph.layer_patterns import resolve_layers, resolve_ratios
from .scores import as_batches, build_importance, check_normalizer, importance_name, is_data_driven
from .search.rounds import Cutter
from .search.search import Limits
from .search.sensitivity import load_sensitivity
from .tracing.snapshot import Snapshot

_TARGETS = ("pruning_ratio", "max_flops", "max_params", "max_activations", "max_latency")


def prune(
    model,
    example_inputs=None,
    *,
    pruning_ratio=None,
    max_flops=None,
    max_params=None,
    max_activations=None,
    max_latency=None,
    importance="surgeon",
    normalize=None,
    reconstruct=True,
    sensitivity=None,
    global_pruning=True,
    isomorphic=False,
    round_to=None,
    rounds=None,
    levels=(),
    max_pruning_ratio=0.9,
    ignored_layers=(),
    pruning_ratio_dict=None,
    data=None,
    progress=None,
    on_level=None,
):
    """Remove channels from ``model`` in place until a target is met.

    Prediction layers keep their width. If anything fails, the model is left as it was. Each
    argument that says what to cut is also a key of the config's ``PRUNER`` node, in capitals.

    Args:
        model (nn.Module): a detectron2-style model, on the device it is on.
        example_inputs (list[dict]): detectron2's format, ``"image"`` of (C, H, W); FLOPs and
            latency are those for these. None: one random image of the size and channels
            of the config that the model carries, or else the first image of ``data``.
        pruning_ratio (float): fraction of the channels to remove: of every group if ranked
            locally, of all together if globally.
        max_flops (float): FLOPs to keep, as a fraction of the dense model's (one multiply-add is
            one FLOP); met from below, within 2 %.
        max_params (float): parameters to keep, as a fraction; met likewise.
        max_activations (float): numbers in the outputs of all convs and linears to keep, as a
            fraction; met likewise.
        max_latency (float): latency to keep, as a fraction, measured here, eagerly, on the
            example inputs; the FLOPs go down in steps until it is met.
        importance (str | Callable): a name in ``blendprune.pruning.IMPORTANCES``, or a callable
            from a group of Torch-Pruning to (width,) scores.
        normalize (str): divide each score by what the channel's removal frees: ``"flops"``,
            ``"params"`` or ``"activations"``. Group Fisher Pruning (arXiv:2108.00708) is
            ``importance="fisher"`` by ``"activations"``. None: ``"surgeon"`` by what the target
            counts, and so is what ``sensitivity`` gives; the others by nothing.
        reconstruct (bool): if there is ``data``, fit the weights that are left, after each cut, to
            the features of the dense model on its images; no labels are read for it, and no
            gradients are needed.
        sensitivity (str | Sensitivity): how much of each group goes is decided by what that costs
            in loss for each FLOP (parameter, …) that it frees, by the curves that
            :func:`blendprune.measure_sensitivity` gave for this model and importance, or by its
            file; the importance says which channels. Greedy, the costs at the present widths anew
            in each round. The curves are those of the model before any cut or reconstruction.
        global_pruning (bool): rank the channels of all groups together.
        isomorphic (bool): rank groups of the same make-up together (arXiv:2407.04616).
        round_to (int): new widths are multiples of it.
        rounds (int): cut in this many steps, scores anew before each. None: as few as leave, each,
            at least 0.65 of what the target counts (of the channels for a ratio).
        levels (Sequence[float]): targets of the same kind on the way: the model is cut to each in
            so many rounds, and from there to the next. What it is at one does not depend on those
            that come after.
        max_pruning_ratio (float): no group loses more than this fraction of its channels.
        ignored_layers (Sequence[str | nn.Module]): layers whose output width stays, by module,
            name, or glob pattern of names; a container stands for everything in it. A layer shares
            its channels with others (``blendprune.plan`` shows which), and all of them stay.
        pruning_ratio_dict (dict[str | nn.Module, float]): layers, given likewise → the fraction of
            their channels to remove, 0 ≤ x < 1, whatever the target; the rest of the model meets
            it. Every group of which an entry names an output loses that fraction, or just less
            where its widths come in steps, all members alike; of several entries that name it the
            last counts, and ``ignored_layers`` counts more. A list of pairs will do.
        data (Iterable[list[dict]]): finite batches as detectron2's training loaders give them,
            for importances that need it, and for the reconstruction; that, ``"activation"`` and
            ``"wanda"`` read the images alone.
        progress (Callable): called as ``progress(done, rounds)`` after each round; each level
            counts its own.
        on_level (Callable): called as ``on_level(level, report)`` while the model is at a level, to
            save or evaluate it; not at the target itself, whose report is returned.

    Returns:
        PruningReport: FLOPs, parameters, widths.

    Raises:
        ConfigError: an argument cannot hold.
        TargetUnreachable: no widths that are allowed meet the target.
        PruningError: the model cannot be traced, scored or run.
    """
    start = time.perf_counter()
    values = (pruning_ratio, max_flops, max_params, max_activations, max_latency)
    kind, target = one_target(dict(zip(_TARGETS, values)))
    normalize = check_normalizer(normalize)
    limits = check_limits(max_pruning_ratio, round_to, global_pruning, isomorphic)
    rounds = _check_rounds(rounds)
    check_ratio_limit(kind, target, limits)
    levels = _check_levels(levels, kind, target)
    sensitivity = _check_sensitivity(sensitivity, model, importance, limits)
    needs_data = is_data_driven(build_importance(importance))
    if needs_data and data is None:
        raise ConfigError(
            f"importance {importance_name(importance)!r} is computed from data: pass data=… "
            "(batches of a training loader), or use importance='magnitude'"
        )
    batches = as_batches(data) if data is not None else None
    inputs = check_inputs(model, example_inputs, batches)
    check_layers(model, ignored_layers, pruning_ratio_dict, limits)

    snapshot = Snapshot(model)
    try:
        cutter = Cutter(
            model,
            inputs,
            importance,
            batches,
            limits,
            ignored_layers,
            pruning_ratio_dict,
            normalize,
            reconstruct=bool(reconstruct) and batches is not None,
            sensitivity=sensitivity,
        )
        for level in [*levels, target]:
            cutter.to_target(kind, level, rounds, progress, goal=target)
            report = replace(cutter.report(), wall_s=time.perf_counter() - start)
            if on_level is not None and level != target:
                on_level(level, report)
        return report
    except BaseException:
        snapshot.restore()
        raise


def one_target(targets):
    """The one target that is set, as its name and value.

    Raises:
        ConfigError: none or several are, or it is no fraction.
    """
    given = {name: value for name, value in targets.items() if value is not None}
    if len(given) != 1:
        raise ConfigError(
            f"exactly one of {', '.join(_TARGETS)} is wanted, got {', '.join(given) or 'none'}"
        )
    [(name, value)] = given.items()
    _check_fraction(name, value)
    return name, float(value)


def _check_fraction(name, value):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(f"{name} must be a number between 0 and 1, got {value!r}")


def _check_rounds(rounds):
    if rounds in (None, 0):
        return None
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ConfigError(f"rounds must be a whole number of at least 1, got {rounds!r}")
    return rounds


def _check_levels(levels, kind, target):
    """Levels in the order in which they are passed, nearest to the dense model first."""
    ratio = kind == "pruning_ratio"
    for level in levels:
        _check_fraction("a level", level)
        if level >= target if ratio else level <= target:
            raise ConfigError(
                f"level {level:g} is not on the way to {kind} {target:g}: the target is the "
                "furthest level"
            )
    return sorted({float(level) for level in levels}, reverse=not ratio)


def _check_sensitivity(sensitivity, model, importance, limits):
    if not sensitivity:
        return None
    if limits.isomorphic or not limits.global_pruning:
        raise ConfigError(
            "sensitivity weighs all groups against one another: leave global_pruning True and "
            "isomorphic False"
        )
    found, source = sensitivity, "the sensitivity"
    if isinstance(sensitivity, str):
        found, source = load_sensitivity(sensitivity), repr(sensitivity)
    found.check(model, importance, source)
    return found


def check_limits(max_pruning_ratio, round_to, global_pruning=True, isomorphic=False):
    """The limits of the widths, from arguments of :func:`prune`.

    Returns:
        Limits: what widths a group may take.

    Raises:
        ConfigError: an argument cannot hold.
    """
    round_to = 1 if round_to in (None, 0) else round_to
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise ConfigError(f"round_to must be a whole number of at least 1, got {round_to!r}")
    if not isinstance(max_pruning_ratio, (int, float)) or not 0 < max_pruning_ratio < 1:
        raise ConfigError(
            f"max_pruning_ratio must be a number between 0 and 1, got {max_pruning_ratio!r}"
        )
    return Limits(round_to, float(max_pruning_ratio), bool(global_pruning), bool(isomorphic))


def check_ratio_limit(kind, target, limits):
    """Refuse a target that no group may reach.

    Raises:
        ConfigError: it is a pruning ratio above the limit.
    """
    if kind == "pruning_ratio" and target > limits.max_pruning_ratio:
        raise ConfigError(
            f"pruning_ratio {target} is above max_pruning_ratio {limits.max_pruning_ratio}; raise "
            "the latter"
        )


def check_layers(model, ignored_layers, pruning_ratio_dict, limits):
    """Refuse layers that the model lacks and ratios above the limit.

    Raises:
        ConfigError: an entry cannot hold.
    """
    resolve_layers(model, ignored_layers)
    for named in set(resolve_ratios(model, pruning_ratio_dict).values()):
        if named.ratio > limits.max_pruning_ratio:
            raise ConfigError(
                f"pruning_ratio_dict has {named.ratio:g} for {named.entry!r}, above "
                f"max_pruning_ratio {limits.max_pruning_ratio:g}; raise the latter"
            )


def check_inputs(model, example_inputs, batches=None):
    """The inputs to trace and count with, in the order of :func:`prune`'s docstring.

    Returns:
        list[dict]: at least one.

    Raises:
        ConfigError: there are none, or they are no list of dicts with images.
    """
    if example_inputs is not None:
        if isinstance(example_inputs, dict):
            example_inputs = [example_inputs]
        inputs = list(example_inputs)
        if not inputs or not all(isinstance(x, dict) and "image" in x for x in inputs):
            raise ConfigError('example_inputs must be a list of dicts like {"image": tensor}')
        return inputs
    inputs = config_inputs(model)
    if inputs is not None:
        return inputs
    if batches is not None:
        return [{"image": batches[0][0]["image"]}]
    raise ConfigError('pass example_inputs=[{"image": tensor}]: the model carries no config')


def config_inputs(model):
    """One random image of the size and channels of the config that the model carries.

    Args:
        model (nn.Module): built under the overlay, or loaded by blendprune.

    Returns:
        list[dict] | None: ``[{"image": (C, S, S)}]``, values 0 to 255, S = INPUT.MIN_SIZE_TEST;
        None for a model without a config.
    """
    text = getattr(model, "blendprune_config", None)
    if not text:
        return None
    config = yaml.safe_load(text)
    side = config["INPUT"]["MIN_SIZE_TEST"]
    channels = len(config["MODEL"]["PIXEL_MEAN"])
    noise = torch.rand(channels, side, side, generator=torch.Generator().manual_seed(0))
    return [{"image": 255 * noise}]
