"""Training loops without ``DefaultTrainer``: what the config asks for, at the first forward."""

import functools
import logging

from ..checkpoint.build import watch_loading
from ..config import asks_for_hooks, prunes_in_script
from ..errors import ConfigError
from ..first_forward import on_first_training_forward
from ..pipeline.script import prune_in_script
from .attach import attach
from .from_config import has_trainer
from .images import same_images

_log = logging.getLogger("detectron2.blendprune")


def watch(model, cfg):
    """Do at the model's first forward in training what its config asks for, if no trainer does.

    Args:
        model (nn.Module): just built.
        cfg (CfgNode): its config, which asks for pruning in the script or for hooks.
    """
    prunes = prunes_in_script(cfg)
    if prunes:
        watch_loading(model)
    run = functools.partial(_prune if prunes else _run_hooks, cfg)
    on_first_training_forward(model, run, ends=prunes)


def _prune(cfg, model, loader, optimizer):
    if loader is None:
        raise ConfigError(
            "MODEL.PRUNE with a target prunes on images of the script's loader, but detectron2's "
            "build_detection_train_loader built none: add "
            "blendprune.prune_in_script(cfg, model, data_loader) before the training loop."
        )
    prune_in_script(cfg, model, same_images(loader, cfg))


def _run_hooks(cfg, model, loader, optimizer):
    if has_trainer(model):
        return
    if loader is not None and optimizer is not None:
        attach(cfg, model, optimizer, loader)
        return
    _log.warning(
        "nothing in this training loop reads %s: add "
        "blendprune.training.attach(cfg, model, optimizer, data_loader) before the loop.",
        ", ".join(asks_for_hooks(cfg)),
    )
