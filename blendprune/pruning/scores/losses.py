"""The training losses on calibration data, and their gradients."""

import contextlib

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from ... import distributed
from ...errors import PruningError, first_line
from ...progress import Counted
from ..tracing.allocator import give_back_memory
from ..tracing.hooks import full_forward, keeping_random_state
from ..tracing.snapshot import keeping_state
from .partial_sums import still_to_sum


def training_loss(model, batch):
    """The sum of the losses of the model in training mode, checked.

    Args:
        model (nn.Module): in training mode.
        batch (list[dict]): with ``"instances"`` and all other labels of the losses.

    Returns:
        Tensor: a scalar.

    Raises:
        PruningError: the losses are not finite, or are no dict.
    """
    with EventStorage():
        try:
            losses = model(batch)
        except (AssertionError, AttributeError, KeyError) as error:
            raise PruningError(
                f"the training forward of {type(model).__name__} fails on the calibration data "
                f"({first_line(error)}): give batches of its training loader, with their labels"
            ) from error
    if not isinstance(losses, dict):
        raise PruningError(
            f"{type(model).__name__} gave no dict of losses in training mode, so nothing can be "
            "learned from data; use importance='magnitude' and no sensitivity"
        )
    total = sum(losses.values())
    if not torch.isfinite(total):
        wrong = [name for name, loss in losses.items() if not torch.isfinite(loss)]
        named = ", ".join(wrong) or "their sum"
        raise PruningError(
            f"the losses on the calibration data are not finite ({named}): check the weights and "
            "the labels"
        )
    return total


def accumulate_gradients(model, batches, after_image=None, loss=training_loss, sums=()):
    """Gradients of the training losses, in ``.grad`` of every parameter.

    Norms use their running statistics. Random choices of the training (proposals, points) follow
    from the number of the image, or of the batch, in all processes. Statistics, modes, and counters
    that modules keep as plain numbers (FCOS's moving average) stay as they were.

    Args:
        model (nn.Module): inside the prunable view, so that frozen stages get gradients too.
        batches (list[list[dict]]): with ``"instances"`` and all other labels of the losses.
        after_image (Callable): called after the backward of each image, with the gradients of that
            image only; None: gradients add up over the batches.
        loss (Callable): of the model and a batch, a scalar.
        sums (Sequence): what ``after_image`` and ``loss`` add each image to, see
            :func:`.partial_sums.still_to_sum`.

    Raises:
        PruningError: the losses are not finite, or are no dict.
    """
    of = "batch"
    if after_image is not None:
        batches, of = [[image] for batch in batches for image in batch], "image"
    model.zero_grad(set_to_none=True)
    left = still_to_sum(Counted(batches, f"scoring {of}"), sums, next(model.parameters()).device)
    with _training(model):
        for batch in _seeded(model, left):
            if after_image is not None:
                model.zero_grad(set_to_none=True)
            with torch.enable_grad():
                loss(model, batch).backward()
            if after_image is not None:
                after_image()
            give_back_memory()


def mean_loss(model, batches):
    """Mean over the batches of all processes of the summed training losses, without gradients.

    The mode and the random choices are those of :func:`accumulate_gradients`, and the model stays
    as it was.

    Args:
        model (nn.Module): inside the prunable view.
        batches (list[list[dict]]): with ``"instances"`` and all other labels of the losses.

    Returns:
        float: finite.

    Raises:
        PruningError: the losses are not finite, or are no dict.
    """
    with torch.no_grad(), _training(model):
        seeded = _seeded(model, enumerate(Counted(batches, "loss of batch")))
        losses = [training_loss(model, batch).item() for batch in seeded]
    losses = sum(distributed.gathered(losses), [])
    return sum(losses) / len(losses)


def try_training(model, batch):
    """Run the training forward once, as for scores, and forget what it gives.

    Args:
        model (nn.Module): inside the prunable view or outside; it stays as it was.
        batch (list[dict]): with ``"instances"`` and all other labels of the losses.
    """
    with keeping_random_state(model), torch.enable_grad(), EventStorage():
        with _training(model, parameters=True):
            model(batch)


def _seeded(model, numbered):
    """Batches; torch's generators follow from the number of each, and are restored in the end.

    Whichever process has a batch, it sees the same random numbers.
    """
    devices = {p.device for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices):
        for index, batch in numbered:
            torch.manual_seed(distributed.number_of(index))
            yield batch


@contextlib.contextmanager
def _training(model, parameters=False):
    """Training mode except for norms; modes, numbers and buffers are restored on leaving."""
    with keeping_state(model, parameters), full_forward(model):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.eval()
        yield
