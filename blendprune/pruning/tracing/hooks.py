"""Forward hooks and modes that end with their ``with`` block."""

import contextlib
import random

import numpy as np
import torch
from torch import nn


@contextlib.contextmanager
def forward_hooks(modules, hook, before=False, **options):
    """Call a hook at each forward of each module, until the block ends.

    Args:
        modules (Iterable[nn.Module]): each of them once.
        hook (Callable): as for ``nn.Module.register_forward_hook``.
        before (bool): call it before the forward, as ``register_forward_pre_hook`` does.
        options: keyword arguments of the ``register_…`` method, for example ``with_kwargs``.
    """
    register = nn.Module.register_forward_pre_hook if before else nn.Module.register_forward_hook
    handles = [register(module, hook, **options) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def keeping_modes(model):
    """Restore ``training`` of every module when the block ends.

    Args:
        model (nn.Module): its modules at the start of the block.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def evaluating(model, grad=False):
    """Put every module in eval mode until the block ends.

    Args:
        model (nn.Module): any model.
        grad (bool): whether gradients are on.

    Yields:
        nn.Module: the model.
    """
    with keeping_modes(model), torch.set_grad_enabled(grad):
        yield model.eval()


@contextlib.contextmanager
def exact_float32():
    """Compute in full float32 on a GPU until the block ends, whatever the user's TF32 settings.

    By default, cuDNN rounds the inputs of convs to the 10 bits of TF32.
    """
    backends = torch.backends
    if hasattr(backends.cudnn, "conv"):
        slots = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn
        name, exact = "fp32_precision", "ieee"
    else:  # PyTorch below 2.9
        slots, name, exact = (backends.cuda.matmul, backends.cudnn), "allow_tf32", False
    before = [getattr(slot, name) for slot in slots]
    try:
        for slot in slots:
            setattr(slot, name, exact)
        yield
    finally:
        for slot, value in zip(slots, before):
            setattr(slot, name, value)


@contextlib.contextmanager
def full_forward(model):
    """Run the real forward until the block ends, also under ``MODEL.PRUNE``.

    ``model_prune`` on a module makes its forward leave early with raw outputs.

    Args:
        model (nn.Module): any model.
    """
    early = [module for module in model.modules() if getattr(module, "model_prune", False)]
    for module in early:
        module.model_prune = False
    try:
        yield
    finally:
        for module in early:
            module.model_prune = True


@contextlib.contextmanager
def no_gradients_from_recurrent_layers(model):
    """End the autograd graph where a sequence begins: recurrent layers are not pruned.

    An unrolled recurrent layer makes every step depend on every other step.

    Args:
        model (nn.Module): the first recurrent layer that runs turns gradients off, until the block
            ends.
    """

    def stop(module, inputs):
        torch.set_grad_enabled(False)

    recurrent = [m for m in model.modules() if isinstance(m, nn.RNNBase)]
    # The inner context restores the grad mode on leaving.
    with (
        forward_hooks(recurrent, stop, before=True),
        torch.set_grad_enabled(torch.is_grad_enabled()),
    ):
        yield


@contextlib.contextmanager
def keeping_random_state(model):
    """Draw the same random numbers each time, and restore the generators when the block ends.

    Args:
        model (nn.Module): whose devices' generators count beside those of torch, NumPy and Python.
    """
    numbers, python = np.random.get_state(), random.getstate()
    devices = {p.device for p in model.parameters() if p.is_cuda}
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            yield
    finally:
        np.random.set_state(numbers)
        random.setstate(python)
