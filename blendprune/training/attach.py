"""The hooks of a config in a training loop that has no trainer."""

import logging

import torch
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils.events import EventStorage, get_event_storage

from ..first_forward import forget_first_forward, run_eagerly, run_new_hooks
from ..wrappers import unwrap
from .from_config import hooks_from_config

_log = logging.getLogger("detectron2.blendprune")


def attach(cfg, model, optimizer, data_loader, evaluate=None):
    """Run the hooks that the ``PRUNER`` node switches on in a training loop of its own.

    One line before the loop::

        blendprune.training.attach(cfg, model, optimizer, data_loader)

    A step begins with a forward of the model in training mode and ends with ``optimizer.step()``.
    The iteration is that of detectron2's ``EventStorage`` if the loop has one, else the number of
    steps so far. The last one is ``SOLVER.MAX_ITER``.

    Args:
        cfg (CfgNode): of the training, with the keys of ``add_prune_config``.
        model (nn.Module): that the loop trains.
        optimizer (torch.optim.Optimizer): of all its parameters.
        data_loader (Iterable[list[dict]]): training data in detectron2's format.
        evaluate (Callable): called with the model; returns what an evaluator of detectron2 gives:
            task → metric → value. ``PRUNER.KEEP_BEST`` needs it.

    Returns:
        LoopTrainer: what the hooks have as their trainer.

    Raises:
        ConfigError: a key is invalid.
        CheckpointError: the teacher's file cannot be read, or is of another model.
    """
    trainer = LoopTrainer(cfg, model, optimizer, data_loader, evaluate)
    hooks = hooks_from_config(cfg)
    trainer.register_hooks(hooks)
    forget_first_forward(unwrap(model))
    if hooks:
        trainer.listen()
        names = ", ".join(type(hook).__name__ for hook in hooks)
        _log.info("hooks of the config in this training loop: %s", names)
    return trainer


class LoopTrainer(TrainerBase):
    """Drives hooks by the forwards of a model and the steps of an optimizer.

    Args:
        cfg, model, optimizer, data_loader, evaluate: as for :func:`attach`.
    """

    def __init__(self, cfg, model, optimizer, data_loader, evaluate=None):
        super().__init__()
        self._evaluate = evaluate
        self.cfg, self.model, self.optimizer, self.data_loader = cfg, model, optimizer, data_loader
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._own_storage = EventStorage()
        self._started = self._in_step = self._in_hook = False

    def listen(self):
        """Register with the model and the optimizer."""
        unwrap(self.model).register_forward_pre_hook(self._before_forward, with_kwargs=True)
        self.optimizer.register_step_pre_hook(self._before_optimizer)
        self.optimizer.register_step_post_hook(self._after_optimizer)

    def test(self, cfg, model):
        """Evaluate, as ``DefaultTrainer.test`` does; an empty dict if the loop gave no function."""
        return self._evaluate(model) if self._evaluate else {}

    @property
    def storage(self):
        """The loop's EventStorage; one of its own if the loop has none."""
        try:
            return get_event_storage()
        except AssertionError:
            return self._own_storage

    @run_eagerly
    def _before_forward(self, model, args, kwargs):
        # Hooks run the model, too, and gradients may add up over several forwards.
        if self._in_hook or self._in_step or not (model.training and torch.is_grad_enabled()):
            return None
        known = set(model._forward_pre_hooks)
        self._in_hook = True
        try:
            self.iter = self.storage.iter
            if not self._started:
                self._started, self.start_iter = True, self.iter
                self.before_train()
            self.before_step()
        finally:
            self._in_hook = False
        # Clipping optimizers step inside their step.
        self._in_step, self._depth = True, 0
        return run_new_hooks(model, known, args, kwargs)

    def _before_optimizer(self, optimizer, args, kwargs):
        if self._in_step:
            self._depth += 1
            if self._depth == 1:
                self.after_backward()

    def _after_optimizer(self, optimizer, args, kwargs):
        if not self._in_step:
            return
        self._depth -= 1
        if self._depth:
            return
        self._in_step, self._in_hook = False, True
        try:
            self.after_step()
            if self.iter + 1 == self.max_iter:
                self.after_train()
        finally:
            self._in_hook = False
        if self.storage is self._own_storage:
            self._own_storage.step()
