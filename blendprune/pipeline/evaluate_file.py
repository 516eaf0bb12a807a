"""AP of a model in a file: a checkpoint, or one that was exported."""

import math

from tabulate import tabulate

from ..checkpoint.build import build_trained
from ..config.messages import explained
from ..deployment.runtime import load
from ..errors import ConfigError
from ..progress import stage
from .bench import config_in, read_models
from .evaluation import check_test_sets, evaluate_fully
from .metrics import tasks_of


def evaluate_file(path, cfg=None, opts=(), engine="onnxruntime"):
    """Evaluate a file on DATASETS.TEST by detectron2's evaluators.

    Args:
        path (str | None): of an exported ``.onnx`` file, which needs ``cfg``, or of a checkpoint
            that carries its ``"struct"`` and config. None: MODEL.WEIGHTS of ``cfg``.
        cfg (CfgNode): of the model; names the test sets and the size of their images.
        opts (list): KEY VALUE pairs that change the config of a checkpoint.
        engine (str): what runs an exported file.

    Returns:
        dict: task → metric → value, as ``DefaultTrainer.test`` returns it.

    Raises:
        ConfigError: there is no config, or the test sets cannot be read.
        CheckpointError: the file cannot be read.
        DeployError: so, for an exported file.
    """
    if cfg is None:
        run, cfg = _of_checkpoint(path, opts)
        check_test_sets(cfg)
    else:
        check_test_sets(cfg)
        stage(f"loading {path or cfg.MODEL.WEIGHTS}")
        run = load(path, engine) if _is_exported(path) else build_trained(cfg).eval()
    stage(f"evaluating on {', '.join(cfg.DATASETS.TEST)}")
    return evaluate_fully(cfg, run)


def _is_exported(path):
    return path is not None and path.endswith(".onnx")


def _of_checkpoint(path, opts):
    if path is None:
        raise ConfigError("there is no model to evaluate: give --config-file, or --weights")
    if _is_exported(path):
        raise ConfigError(
            f"{path!r} does not say what to evaluate it on: give --config-file, the config of its "
            "model"
        )
    [model] = read_models([path]).values()
    cfg = config_in(model)
    with explained("the KEY VALUE pairs", cfg):
        cfg.merge_from_list(list(opts))
    return model, cfg


def evaluation_table(found):
    """The result of :func:`evaluate_file` as text.

    Args:
        found (dict): see there.

    Returns:
        str: a table for each task.
    """
    tables = []
    for task, numbers in tasks_of(found):
        cells = ["" if not math.isfinite(x) else f"{x:.2f}" for x in numbers.values()]
        headers = [f"{task}: {next(iter(numbers))}", *list(numbers)[1:]]
        tables.append(tabulate([cells], headers, tablefmt="pipe", disable_numparse=True))
    return "\n\n".join(tables)
