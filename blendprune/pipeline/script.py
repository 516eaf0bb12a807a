"""Prune inside the training script that trained the model, instead of training."""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from .. import distributed
from ..checkpoint.build import check_loaded
from ..config import prunes_in_script
from ..data.pseudo_labels import batches_of_pictures
from ..errors import ConfigError
from ..first_forward import forget_first_forward
from ..progress import LoggedProgress
from ..pruning.scores import first_batches, split_batches
from ..pruning.search.rounds import ONE_CLOCK
from ..report.table import report_table
from ..wrappers import unwrap
from .from_config import prune_trained

# Below detectron2's logger: its handlers write to the terminal and to OUTPUT_DIR/log.txt.
_log = logging.getLogger("detectron2.blendprune")


def prune_in_script(
    cfg: CfgNode,
    model: nn.Module,
    data_loader: Iterable[list[dict[str, Any]]],
    evaluate: Callable[[nn.Module], Any] | None = None,
) -> None:
    """Prune a training script's model and end the process, if its config says so.

    With ``MODEL.PRUNE True`` and a target in the ``PRUNER`` node, the model is pruned on images of
    the loader, and evaluated before and after. ``model_pruned.pth``, ``config.yaml`` and
    ``report.json`` are written to ``OUTPUT_DIR``. Then the process exits with code 0. With any
    other config, nothing happens, so the call may stay in the script, before its training loop.

    Under the overlay, ``DefaultTrainer`` calls it when the training begins. A training loop of its
    own is pruned at its first forward. Several processes prune together: each reads its share of
    the images, and the first one writes the files.

    Args:
        cfg (CfgNode): the script's config, with the keys of ``add_prune_config``.
        model (nn.Module): with its trained weights.
        data_loader (Iterable[list[dict]]): the script's training loader; may be endless.
        evaluate (Callable): called with the dense and with the pruned model; returns what an
            evaluator of detectron2 gives: task → metric → value.

    Raises:
        SystemExit: with code 0, after the files are written.
        ConfigError: a key of the config is invalid, MODEL.WEIGHTS is empty, or the loader gives no
            images.
        DistributedError: another process failed or ended, or the processes differ.
        CheckpointError: the weights that the script loaded lack some of the model's.
        PruningError: the model cannot be pruned as asked.
    """
    if not prunes_in_script(cfg):
        return
    with distributed.together():
        _prune_in_script(cfg, unwrap(model), data_loader, evaluate)
    raise SystemExit(0)


def _prune_in_script(cfg, model, data_loader, evaluate):
    if cfg.PRUNER.GRADUAL.END:
        raise ConfigError(
            "MODEL.PRUNE with a target prunes at once, but PRUNER.GRADUAL.END prunes during the "
            "training: leave one of them out."
        )
    if cfg.PRUNER.MAX_LATENCY and distributed.processes() > 1:
        raise ConfigError(ONE_CLOCK)
    forget_first_forward(model)
    check_loaded(model, cfg.MODEL.WEIGHTS)
    if evaluate is None:
        why = "its evaluator is not known here" if cfg.DATASETS.TEST else "DATASETS.TEST is empty"
        _say(f"AP is not measured: {why}")

    def read():
        images = cfg.PRUNER.CALIBRATION_IMAGES
        if cfg.PRUNER.IMAGE_FOLDER:
            if distributed.processes() > 1:
                raise ConfigError(
                    "PRUNER.IMAGE_FOLDER is read by one process: prune with --num-gpus 1, or on "
                    "the labelled images of DATASETS.TRAIN"
                )
            _say(f"reading {images} pictures of {cfg.PRUNER.IMAGE_FOLDER}")
            return batches_of_pictures(cfg, model)
        _say(f"reading {distributed.share_of(images)} images of the script's loader")
        return split_batches(first_batches(data_loader, model, images))

    with LoggedProgress(_say).heard():
        report = prune_trained(cfg, model, cfg.OUTPUT_DIR, read, evaluate, _fine_tuning)
    _say(f"pruned instead of trained, because of MODEL.PRUNE:\n{report_table(report)}")
    _say(f"fine-tune with: {_fine_tuning(os.path.join(cfg.OUTPUT_DIR, 'config.yaml'))}")
    if evaluate is None:
        _say("evaluate with the same command and --eval-only")


def _fine_tuning(config):
    return command("--config-file", config)


def command(*args):
    """The command that started this script, with other arguments.

    Args:
        args (str): the arguments.

    Returns:
        str: quoted for a shell; ``blendprune run`` and the interpreter's flags included.
    """
    given = sys.argv[1:]
    end = len(sys.orig_argv) - len(given)
    before = sys.orig_argv[:end] if sys.orig_argv[end:] == given else ["python", sys.argv[0]]
    # An installed command is a script of the interpreter's.
    if os.path.basename(before[1]) == "blendprune":
        before = before[1:]
    return shlex.join([os.path.basename(before[0]), *before[1:], *args])


def _say(text):
    # Scripts that set up no logging of detectron2's still tell.
    if _log.isEnabledFor(logging.INFO) and _log.hasHandlers():
        _log.info(text)
    elif distributed.is_first():
        print(text, flush=True)
