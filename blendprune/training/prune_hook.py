"""Pruning as the first hook of a trainer: the script prunes instead of training."""

import functools

from detectron2.engine.train_loop import HookBase

from ..pipeline.script import prune_in_script
from .images import same_images


class PruneInstead(HookBase):
    """Prunes the trainer's model when its training begins, and ends the process.

    The images are those of the trainer's own loader. ``trainer.test``, the script's own evaluation,
    measures the dense and the pruned model; see :func:`blendprune.prune_in_script`.
    """

    def before_train(self):
        trainer = self.trainer
        test = functools.partial(trainer.test, trainer.cfg) if trainer.cfg.DATASETS.TEST else None
        try:
            loader = same_images(trainer.data_loader, trainer.cfg)
            prune_in_script(trainer.cfg, trainer.model, loader, test)
        finally:
            # Their ``after_train`` would evaluate and save a training that never was.
            trainer._hooks.clear()
