"""The job behind ``blendprune prune``: from a config and trained weights to three files."""

import copy
import inspect
import json
import os
import tempfile
import time

import torch

from . import modeling, structure
from .checkpoint import first_line, read_checkpoint, read_struct, staged
from .config import prune_mode
from .errors import CheckpointError, ConfigError
from .finetune import finetune_config

_TARGETS = {
    "PRUNING_RATIO": "pruning_ratio",
    "MAX_FLOPS": "max_flops",
    "MAX_PARAMS": "max_params",
    "MAX_ACTIVATIONS": "max_activations",
    "MAX_LATENCY": "max_latency",
}


def prune_from_config(cfg, output_dir, progress=None):
    """Prune the model at ``MODEL.WEIGHTS`` as the ``PRUNER`` node says.

    Writes ``model_pruned.pth`` (weights and ``"struct"``), ``config.yaml`` (ready for the training
    script: MODEL.FINETUNE is True, MODEL.WEIGHTS set) and ``report.json`` to ``output_dir``: all
    three or none. What ``PRUNER.LEVELS`` asks for on the way goes, as soon as it is reached, to a
    folder in it that is named after the level: ``output_dir/0.67``.

    Args:
        cfg (CfgNode): config of the trained model, with the keys of ``add_prune_config``.
        output_dir (str): a local folder, made if need be.
        progress (callable): called with one line of text at each step.

    Returns:
        dict: the report: ``flops``, ``params``, ``latency_ms`` (each with ``before`` and
        ``after``), ``wall_s``, ``layers``, ``notes``.

    Raises:
        ConfigError: a key of the config cannot hold, or the folder cannot be written.
        CheckpointError: the weights cannot be read, or are not a trained model of this config.
        PruningError: the model cannot be cut as asked.
    """
    from . import pruning
    from .pruning.cost.latency import compare_latency

    start = time.perf_counter()
    say = progress or (lambda line: None)
    prune_mode(cfg)
    arguments = prune_arguments(cfg)
    finetune_config(cfg, output_dir)  # refuses what cannot hold
    _make_writable(output_dir)

    say(f"loading {cfg.MODEL.WEIGHTS}")
    model = build_trained(cfg)
    dense = copy.deepcopy(model)
    data = None
    if pruning.is_data_driven(pruning.build_importance(arguments["importance"])):
        data = _read(cfg, say)
    if arguments["sensitivity"]:
        arguments["sensitivity"] = _sensitivity(cfg, model, data, say)

    def write(result, folder):
        say("measuring latency")
        models, inputs = {"before": dense, "after": model}, pruning.config_inputs(model)
        report = {
            **result.to_dict(),
            "latency_ms": compare_latency(models, inputs, runs=7, warmup=1),
            "threads": torch.get_num_threads(),
            "device": cfg.MODEL.DEVICE,
            "wall_s": round(time.perf_counter() - start, 1),
        }
        _write(folder, model, finetune_config(cfg, folder), report)
        say(f"{report['flops']['after'] / report['flops']['before']:.3f} of the FLOPs: {folder}")
        return report

    result = pruning.prune(
        model,
        data=data,
        progress=lambda done, rounds: say(f"cut {done} of {rounds}"),
        on_level=lambda level, result: write(result, os.path.join(output_dir, f"{level:g}")),
        **arguments,
    )
    return write(result, output_dir)


def plan_from_config(cfg):
    """Plan the model of a config, as :func:`prune_from_config` would cut it, without its weights.

    A pruned checkpoint at MODEL.WEIGHTS gives the widths: with MODEL.FINETUNE, or where it is a
    file of this machine.

    Args:
        cfg (CfgNode): with the keys of ``add_prune_config``; targets in it do not matter.

    Returns:
        PruningPlan: see :func:`blendprune.plan`.

    Raises:
        ConfigError: a key of the config cannot hold, or MODEL.DEVICE cannot be used here.
        CheckpointError: the pruned checkpoint cannot be read.
        PruningError: the model cannot be traced.
    """
    from . import pruning

    prune_mode(cfg)
    model, path = _build(cfg), cfg.MODEL.WEIGHTS.partition("?")[0]
    if cfg.MODEL.FINETUNE:
        structure.restructure(model, read_struct(path))
    elif os.path.isfile(path) and not path.endswith(".pkl"):
        _restructure(model, read_checkpoint(path))
    return pruning.plan(model, **_arguments_of(pruning.plan, cfg))


def sensitivity_from_config(cfg, progress=None):
    """Measure the sensitivity of the model at ``MODEL.WEIGHTS``, or read it.

    Args:
        cfg (CfgNode): with the keys of ``add_prune_config``; PRUNER.SENSITIVITY names the file.
        progress (callable): called with one line of text at each step.

    Returns:
        Sensitivity: see :func:`blendprune.measure_sensitivity`.

    Raises:
        ConfigError: a key of the config cannot hold, or the file is of another model.
        CheckpointError: the weights cannot be read, or are not a trained model of this config.
        PruningError: the model cannot be traced, or its losses are not finite.
    """
    say = progress or (lambda line: None)
    prune_mode(cfg)
    say(f"loading {cfg.MODEL.WEIGHTS}")
    return _sensitivity(cfg, build_trained(cfg), None, say)


def _sensitivity(cfg, model, data, say):
    from detectron2.utils.file_io import PathManager

    from . import pruning

    path = cfg.PRUNER.SENSITIVITY
    if not PathManager.isfile(path):
        if "://" not in path:
            _make_writable(os.path.dirname(os.path.abspath(path)))
        data = data or _read(cfg, say)
    return pruning.measure_sensitivity(
        model,
        data=data,
        importance=cfg.PRUNER.IMPORTANCE,
        path=path,
        progress=lambda done, groups: say(f"sensitivity of group {done} of {groups}"),
    )


def _read(cfg, say):
    say(f"reading {cfg.PRUNER.CALIBRATION_IMAGES} images of {', '.join(cfg.DATASETS.TRAIN)}")
    return calibration_batches(cfg)


def build_trained(cfg):
    """Build the model of a config and load its trained weights; a pruned one keeps its widths.

    Args:
        cfg (CfgNode): with MODEL.WEIGHTS set; MODEL.PRUNE and MODEL.FINETUNE do not matter.

    Returns:
        nn.Module: in training mode, as detectron2 builds it.

    Raises:
        ConfigError: MODEL.WEIGHTS is empty, or MODEL.DEVICE cannot be used here.
        CheckpointError: the file cannot be read, or lacks weights that the model has.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("MODEL.WEIGHTS is empty: set it to the trained model that is to be cut.")
    model = _build(cfg)
    _load_weights(model, cfg.MODEL.WEIGHTS)
    return model


def _build(cfg):
    """The dense model of a config, with random weights."""
    from detectron2.modeling import build_model

    _check_device(cfg)
    modeling.register()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.PRUNE = cfg.MODEL.FINETUNE = False
    try:
        model = build_model(cfg)
    except KeyError as error:
        raise ConfigError(f"cannot build {cfg.MODEL.META_ARCHITECTURE}: {error}.") from None
    structure.remember(model, cfg)
    return model


def _check_device(cfg):
    # torch alone knows which devices there are, and says so with errors of several kinds.
    try:
        torch.empty(0, device=cfg.MODEL.DEVICE)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, which cannot be used here "
            f"({first_line(error)}): set MODEL.DEVICE cpu."
        ) from None


def calibration_batches(cfg):
    """Read ``PRUNER.CALIBRATION_IMAGES`` training images, augmented as for training.

    Args:
        cfg (CfgNode): with DATASETS.TRAIN registered.

    Returns:
        list[list[dict]]: batches in detectron2's format, with ``"instances"``.

    Raises:
        ConfigError: the images cannot be read.
    """
    from detectron2.data import build_detection_train_loader
    from detectron2.utils.env import seed_all_rng

    from .data.mapper import DatasetMapperWithBasis

    per_batch = max(1, min(cfg.SOLVER.IMS_PER_BATCH, cfg.PRUNER.CALIBRATION_IMAGES, 8))
    seed_all_rng(max(cfg.SEED, 0))
    try:
        loader = build_detection_train_loader(
            cfg,
            mapper=DatasetMapperWithBasis(cfg, True),
            total_batch_size=per_batch,
            num_workers=0,
        )
        batches = iter(loader)
        return [next(batches) for _ in range(-(-cfg.PRUNER.CALIBRATION_IMAGES // per_batch))]
    except (KeyError, OSError, AssertionError, ValueError) as error:
        # What has a sensitivity to go by needs the importance that it was measured with.
        or_else = ", or use PRUNER.IMPORTANCE magnitude, which needs no data."
        raise ConfigError(
            f"cannot read training images of {', '.join(cfg.DATASETS.TRAIN) or 'DATASETS.TRAIN'} "
            f"({first_line(error)}): register the dataset or set DETECTRON2_DATASETS"
            f"{'.' if cfg.PRUNER.SENSITIVITY else or_else}"
        ) from None


def prune_arguments(cfg, function=None):
    """The ``PRUNER`` node as arguments of :func:`blendprune.prune`, or of one like it.

    Raises:
        ConfigError: not exactly one target is set.
    """
    from . import pruning

    node = cfg.PRUNER
    targets = {name: node[key] for key, name in _TARGETS.items() if node[key] != 0.0}
    if len(targets) != 1:
        raise ConfigError(
            f"{len(targets) or 'none'} of {', '.join(f'PRUNER.{key}' for key in _TARGETS)} set: "
            "set exactly one, to a fraction between 0 and 1."
        )
    rest = _arguments_of(function or pruning.prune, cfg)
    return targets | {name: rest[name] for name in rest if name not in _TARGETS.values()}


def _arguments_of(function, cfg):
    """What the PRUNER node says of the arguments of a function, which its keys are named after."""
    names = inspect.signature(function).parameters
    return {name: cfg.PRUNER[name.upper()] for name in names if name.upper() in cfg.PRUNER}


def _load_weights(model, path):
    from detectron2.checkpoint import DetectionCheckpointer

    class Recorder(DetectionCheckpointer):
        def _load_model(self, checkpoint):
            _restructure(self.model, checkpoint)
            self.incompatible = super()._load_model(checkpoint)
            return self.incompatible

    if not path.endswith(".pkl"):  # detectron2's own conversions read those
        read_checkpoint(path.partition("?")[0])
    recorder = Recorder(model, save_to_disk=False)
    try:
        recorder.load(path)
    except CheckpointError:
        raise
    except Exception as error:  # fvcore, pickle and PathManager have many
        raise CheckpointError(f"cannot load {path!r} ({first_line(error)}).") from None
    lacking = [
        key for key in recorder.incompatible.missing_keys if not key.endswith("num_batches_tracked")
    ]
    lacking += [key for key, _, _ in recorder.incompatible.incorrect_shapes]
    if lacking:
        raise CheckpointError(
            f"{path!r} lacks {len(lacking)} weights of this config's model ({lacking[0]}, …): set "
            "MODEL.WEIGHTS to the trained model, not to the backbone it started from."
        )


def _restructure(model, checkpoint):
    if isinstance(checkpoint.get("struct"), dict):
        structure.restructure(model, checkpoint["struct"])


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
