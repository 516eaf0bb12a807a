"""The pipeline behind the command line: from a config and trained weights to three files."""

import copy
import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from .. import distributed, pruning, structure
from ..checkpoint import read_checkpoint
from ..checkpoint.build import arguments_of, build_dense, build_trained, prune_arguments
from ..checkpoint.loading import restructure_from
from ..config import prune_mode
from ..config.emitted import drop_keys_of_other_models
from ..data.calibration import calibration_batches
from ..data.pseudo_labels import batches_of_pictures
from ..errors import error_line
from ..files import make_writable
from ..progress import listener, stage
from ..pruning import PruningPlan, Sensitivity
from ..pruning.search.rounding import rounding_words
from ..report.reference import reference_of, reference_words
from ..wrappers import unwrap
from .finetune import finetune_config
from .latencies import form_latencies, random_inputs, timing_inputs
from .metrics import main_metrics
from .page import Pictures, page_of_prune, tuning_command
from .pruned_folder import write_folder
from .trial import try_config
from .unfinished import UnfinishedPrune


def prune_from_config(
    cfg: CfgNode,
    output_dir: str,
    mapper: Callable[..., Any] | None = None,
    imports: Sequence[str] = (),
) -> dict[str, Any]:
    """Prune the model at ``MODEL.WEIGHTS`` as the ``PRUNER`` node says.

    Writes ``model_pruned.pth`` (weights and ``"struct"``), ``config.yaml`` (ready for the training
    script: MODEL.FINETUNE is True, MODEL.WEIGHTS set), ``report.json`` and ``report.html`` to
    ``output_dir``: all or none. The model at each of ``PRUNER.LEVELS`` is written as soon as it is
    reached, to a folder named after the level: ``output_dir/0.67``. If the prune is interrupted,
    the same call goes on behind its last round, and keeps the levels that are written.

    Args:
        cfg (CfgNode): config of the trained model, with the keys of ``add_prune_config``.
        output_dir (str): a local folder, made if needed.
        mapper (Callable): dataset mapper of the training, called as ``mapper(cfg, True)``; None:
            the one that upstream's training scripts have for the architecture.
        imports (Sequence[str]): ``MODULE:FUNCTION`` of what registers data sets and models, for the
            commands that ``report.html`` shows.

    Returns:
        dict: the report: ``flops``, ``params``, ``latency_ms`` (each with ``before`` and
        ``after``), ``latency_ms_by_form`` (the same for each form: eager, deployed, and
        PRUNER.RUNTIME), ``timed_on`` (which image), ``wall_s``, ``seconds`` (of the stages of
        pruning), ``layers``, ``flops_by_module`` (own FLOPs of each module, without its children),
        ``notes``, ``relative_to`` (see :func:`blendprune.report.reference.reference_of`).

    Raises:
        ConfigError: a key of the config is invalid, or the folder is not writable.
        CheckpointError: the weights cannot be read, or are not a trained model of this config.
        PruningError: the model cannot be pruned as asked.
    """
    prune_mode(cfg)
    _check(cfg, output_dir)
    stage(f"loading {cfg.MODEL.WEIGHTS}")
    model = build_trained(cfg)
    read = functools.partial(_read, cfg, model, mapper)
    return prune_trained(cfg, model, output_dir, read, imports=imports)


def prune_trained(cfg, model, output_dir, read, evaluate=None, tune=tuning_command, imports=()):
    """Prune a trained model in place as the ``PRUNER`` node says, and write the files.

    Of processes that prune together, the first one measures latencies and writes.

    Args:
        cfg (CfgNode): the model's config, with the keys of ``add_prune_config``.
        model (nn.Module): with its trained weights; wrapped by DistributedDataParallel or not.
        output_dir (str): as for :func:`prune_from_config`.
        read (Callable): called without arguments, if the importance needs data; returns batches in
            detectron2's format.
        evaluate (Callable): called with the dense and with the pruned model; returns what an
            evaluator of detectron2 gives: task → metric → value. None: no ``"ap"`` in the report.
        tune (Callable): config → the command that fine-tunes by it.
        imports (Sequence[str]): as for :func:`prune_from_config`.

    Returns:
        dict: the report, as from :func:`prune_from_config`; ``ap`` holds ``dense`` and ``pruned``,
        each task → AP (PQ or mIoU where the task has no AP).

    Raises:
        ConfigError: a key of the config is invalid, or the folder is not writable.
        PruningError: the model cannot be pruned as asked.
    """
    start = time.perf_counter()
    arguments = _check(cfg, output_dir)
    model = unwrap(model)
    if not structure.is_remembered(model):
        structure.remember(model, cfg)
    dense, reference = copy.deepcopy(model), reference_of(cfg, model)
    data = None
    if pruning.is_data_driven(pruning.build_importance(arguments["importance"])):
        data = read()
    if arguments["sensitivity"]:
        arguments["sensitivity"] = _sensitivity(cfg, model, data, read)
    # Before the long work: what the dense model refuses, the pruned one would, too.
    _tuning(cfg, output_dir, model, data)
    ap = {"dense": _measure(evaluate, model, "dense")} if evaluate else {"dense": {}}
    reports, pictures = {}, Pictures(cfg, dense, data)
    unfinished = UnfinishedPrune(cfg, output_dir)
    distributed.from_first(unfinished.read)

    @functools.cache  # all levels are timed on the same image
    def timing():
        # A target of latency is one of random pixels.
        return random_inputs(dense) if arguments.get("max_latency") else timing_inputs(cfg, dense)

    def at_level(level, result):
        folder = os.path.join(output_dir, f"{level:g}")
        if not distributed.from_first(lambda: os.path.basename(folder) in unfinished.levels):
            write(result, folder)

    def write(result, folder):
        tuning, frozen = _tuning(cfg, folder, model, data)
        found = ap
        if ap["dense"]:
            found = ap | {"pruned": _measure(evaluate, model, "pruned")}
        return distributed.from_first(lambda: finish(result, folder, tuning, frozen, found))

    def finish(result, folder, tuning, frozen, ap):
        stage("measuring latency")
        timed, words = timing()
        latencies, missing = form_latencies(
            {"before": dense, "after": model},
            timed,
            ("eager", "deployed", arguments["runtime"]),
        )
        report = {
            **result.to_dict(),
            "relative_to": reference,
            "latency_ms": latencies.get("eager", {}),
            "latency_ms_by_form": latencies,
            "timed_on": words,
            "threads": torch.get_num_threads(),
            "device": cfg.MODEL.DEVICE,
        }
        report["notes"] = [*report["notes"], *missing, *frozen]
        if data is not None and cfg.PRUNER.IMAGE_FOLDER:
            report["notes"].append(
                f"calibrated on pictures of {cfg.PRUNER.IMAGE_FOLDER}, labelled by the dense model"
            )
        if ap["dense"]:
            report["ap"] = ap
        report["wall_s"] = round(time.perf_counter() - start, 1)
        name = os.path.basename(os.path.abspath(folder))
        reports[name] = report
        page = page_of_prune(
            unfinished.reports | reports,
            *(pictures, model, cfg.MODEL.WEIGHTS, folder),
            *(tune, imports),
        )
        own = write_folder(folder, model, tuning, report, page)
        if folder != output_dir:
            unfinished.add_level(name, own)
        kept = report["flops"]["after"] / report["flops"]["before"]
        stage(
            f"{kept:.3f} of the FLOPs of {reference_words(reference)}, widths "
            f"{rounding_words(report['round_to'])}: {folder}"
        )
        return report

    result = pruning.prune(
        model,
        data=data,
        progress=listener().steps("round"),
        on_level=at_level,
        on_round=lambda state: distributed.from_first(lambda: unfinished.add_round(state)),
        resume=distributed.from_first(lambda: unfinished.state),
        **arguments,
    )
    report = write(result, output_dir)
    distributed.from_first(unfinished.remove)
    return report


def _tuning(cfg, folder, model, data=None):
    """The fine-tuning config, tried on the model, and notes on it."""
    tuning = finetune_config(cfg, folder)
    drop_keys_of_other_models(tuning)
    return tuning, try_config(tuning, cfg, model, data)


def _check(cfg, output_dir):
    """Refuse what is invalid before the long work; returns the arguments of ``prune``."""
    arguments = prune_arguments(cfg, pruning.prune)
    finetune_config(cfg, output_dir)
    distributed.from_first(lambda: make_writable(output_dir))
    return arguments


def plan_from_config(cfg: CfgNode) -> PruningPlan:
    """Plan the model of a config, as :func:`prune_from_config` would prune it, without weights.

    A pruned checkpoint at MODEL.WEIGHTS gives the widths: with MODEL.FINETUNE, or if it is a file
    of this machine.

    Args:
        cfg (CfgNode): with the keys of ``add_prune_config``; targets in it do not matter.

    Returns:
        PruningPlan: see :func:`blendprune.plan`.

    Raises:
        ConfigError: a key of the config is invalid, or MODEL.DEVICE cannot be used here.
        CheckpointError: the pruned checkpoint cannot be read.
        PruningError: the model cannot be traced.
    """
    prune_mode(cfg)
    model, path = build_dense(cfg), cfg.MODEL.WEIGHTS.partition("?")[0]
    if cfg.MODEL.FINETUNE or os.path.isfile(path) and not path.endswith(".pkl"):
        restructure_from(model, read_checkpoint(path), strict=cfg.MODEL.FINETUNE)
    return pruning.plan(model, **arguments_of(pruning.plan, cfg))


def sensitivity_from_config(
    cfg: CfgNode,
    mapper: Callable[..., Any] | None = None,
) -> Sensitivity:
    """Measure the sensitivity of the model at ``MODEL.WEIGHTS``, or read its file.

    Args:
        cfg (CfgNode): with the keys of ``add_prune_config``; PRUNER.SENSITIVITY names the file.
        mapper (Callable): as for :func:`prune_from_config`.

    Returns:
        Sensitivity: see :func:`blendprune.measure_sensitivity`.

    Raises:
        ConfigError: a key of the config is invalid, or the file is of another model.
        CheckpointError: the weights cannot be read, or are not a trained model of this config.
        PruningError: the model cannot be traced, or its losses are not finite.
    """
    prune_mode(cfg)
    stage(f"loading {cfg.MODEL.WEIGHTS}")
    model = build_trained(cfg)
    read = functools.partial(_read, cfg, model, mapper)
    return _sensitivity(cfg, model, None, read)


def _sensitivity(cfg, model, data, read):
    path = cfg.PRUNER.SENSITIVITY
    pruning.build_importance(cfg.PRUNER.IMPORTANCE)
    pruning.check_output(path)
    if not distributed.from_first(lambda: PathManager.isfile(path)):
        if "://" not in path:
            folder = os.path.dirname(os.path.abspath(path))
            distributed.from_first(lambda: make_writable(folder))
        data = data or read()
    return pruning.measure_sensitivity(
        model,
        data=data,
        importance=cfg.PRUNER.IMPORTANCE,
        path=path,
        progress=listener().steps("sensitivity of group"),
    )


def _read(cfg, model, mapper):
    names = cfg.PRUNER.IMAGE_FOLDER or ", ".join(cfg.DATASETS.TRAIN)
    stage(f"reading {cfg.PRUNER.CALIBRATION_IMAGES} images of {names}")
    if cfg.PRUNER.IMAGE_FOLDER:
        return batches_of_pictures(cfg, model, mapper)
    return calibration_batches(cfg, mapper)


def _measure(evaluate, model, name):
    stage(f"evaluating the {name} model")
    try:
        found, why = main_metrics(evaluate(model)), "the evaluator gives none"
    except Exception as error:
        # Other processes may wait for this one inside the evaluator.
        if distributed.processes() > 1:
            raise
        # The pruned model is worth more than its AP.
        found, why = {}, f"the evaluator failed ({error_line(error)})"
    # Evaluators give their results in the first process alone.
    found = distributed.from_first(lambda: found)
    if not found:
        stage(f"AP is not measured: {why}")
    return found
