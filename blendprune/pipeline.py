"""The pipeline behind the command line: from a config and trained weights to three files."""

import copy
import json
import os
import tempfile
import time

import torch
from detectron2.utils.file_io import PathManager

from . import pruning, structure
from .build import arguments_of, build_dense, build_trained, prune_arguments
from .checkpoint import read_checkpoint, staged
from .config import prune_mode
from .data.calibration import calibration_batches
from .errors import ConfigError
from .finetune import finetune_config
from .loading import restructure_from
from .progress import Progress
from .pruning.cost.latency import compare_latency
from .reference import reference_of, reference_words
from .trial import try_config


def prune_from_config(cfg, output_dir, progress=None):
    """Prune the model at ``MODEL.WEIGHTS`` as the ``PRUNER`` node says.

    Writes ``model_pruned.pth`` (weights and ``"struct"``), ``config.yaml`` (ready for the training
    script: MODEL.FINETUNE is True, MODEL.WEIGHTS set) and ``report.json`` to ``output_dir``: all
    three or none. The model at each of ``PRUNER.LEVELS`` is written as soon as it is reached, to a
    folder named after the level: ``output_dir/0.67``.

    Args:
        cfg (CfgNode): config of the trained model, with the keys of ``add_prune_config``.
        output_dir (str): a local folder, made if needed.
        progress (Progress): hears of the stages and the rounds.

    Returns:
        dict: the report: ``flops``, ``params``, ``latency_ms`` (each with ``before`` and
        ``after``), ``wall_s``, ``layers``, ``notes``, ``relative_to`` (see
        :func:`blendprune.reference.reference_of`).

    Raises:
        ConfigError: a key of the config is invalid, or the folder is not writable.
        CheckpointError: the weights cannot be read, or are not a trained model of this config.
        PruningError: the model cannot be pruned as asked.
    """
    start = time.perf_counter()
    progress = progress or Progress()
    prune_mode(cfg)
    arguments = prune_arguments(cfg, pruning.prune)
    finetune_config(cfg, output_dir)  # refuses invalid keys before the long work
    _make_writable(output_dir)

    progress.stage(f"loading {cfg.MODEL.WEIGHTS}")
    model = build_trained(cfg)
    dense, reference = copy.deepcopy(model), reference_of(cfg, model)
    data = None
    if pruning.is_data_driven(pruning.build_importance(arguments["importance"])):
        data = _read(cfg, progress)
    if arguments["sensitivity"]:
        arguments["sensitivity"] = _sensitivity(cfg, model, data, progress)
    # Before the long work: what the dense model refuses, the pruned one would, too.
    try_config(finetune_config(cfg, output_dir), cfg, model, data)

    def write(result, folder):
        progress.stage("measuring latency")
        models, inputs = {"before": dense, "after": model}, pruning.config_inputs(model)
        tuning = finetune_config(cfg, folder)
        frozen = try_config(tuning, cfg, model, data)
        report = {
            **result.to_dict(),
            "relative_to": reference,
            "latency_ms": compare_latency(models, inputs, runs=7, warmup=1),
            "threads": torch.get_num_threads(),
            "device": cfg.MODEL.DEVICE,
            "wall_s": round(time.perf_counter() - start, 1),
        }
        report["notes"] = [*report["notes"], *frozen]
        _write(folder, model, tuning, report)
        kept = report["flops"]["after"] / report["flops"]["before"]
        progress.stage(f"{kept:.3f} of the FLOPs of {reference_words(reference)}: {folder}")
        return report

    result = pruning.prune(
        model,
        data=data,
        progress=progress.steps("round"),
        on_level=lambda level, result: write(result, os.path.join(output_dir, f"{level:g}")),
        **arguments,
    )
    return write(result, output_dir)


def plan_from_config(cfg):
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


def sensitivity_from_config(cfg, progress=None):
    """Measure the sensitivity of the model at ``MODEL.WEIGHTS``, or read its file.

    Args:
        cfg (CfgNode): with the keys of ``add_prune_config``; PRUNER.SENSITIVITY names the file.
        progress (Progress): hears of the stages and the groups.

    Returns:
        Sensitivity: see :func:`blendprune.measure_sensitivity`.

    Raises:
        ConfigError: a key of the config is invalid, or the file is of another model.
        CheckpointError: the weights cannot be read, or are not a trained model of this config.
        PruningError: the model cannot be traced, or its losses are not finite.
    """
    progress = progress or Progress()
    prune_mode(cfg)
    progress.stage(f"loading {cfg.MODEL.WEIGHTS}")
    return _sensitivity(cfg, build_trained(cfg), None, progress)


def _sensitivity(cfg, model, data, progress):
    path = cfg.PRUNER.SENSITIVITY
    if not PathManager.isfile(path):
        if "://" not in path:
            _make_writable(os.path.dirname(os.path.abspath(path)))
        data = data or _read(cfg, progress)
    return pruning.measure_sensitivity(
        model,
        data=data,
        importance=cfg.PRUNER.IMPORTANCE,
        path=path,
        progress=progress.steps("sensitivity of group"),
    )


def _read(cfg, progress):
    names = ", ".join(cfg.DATASETS.TRAIN)
    progress.stage(f"reading {cfg.PRUNER.CALIBRATION_IMAGES} images of {names}")
    return calibration_batches(cfg)


def _make_writable(folder):
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write to the output folder {folder!r} ({error.strerror}): choose another with "
            "--output."
        ) from None


def _write(folder, model, cfg, report):
    os.makedirs(folder, exist_ok=True)
    names = ("report.json", "config.yaml", "model_pruned.pth")
    with staged(*(os.path.join(folder, name) for name in names)) as (report_at, config_at, at):
        with open(report_at, "w") as file:
            json.dump(report, file, indent=2)
        with open(config_at, "w") as file:
            file.write(cfg.dump())
        torch.save({"model": model.state_dict(), "struct": structure.structure_of(model)}, at)
