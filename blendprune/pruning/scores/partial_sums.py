"""Sums over images: kept while they grow, so that an interrupted scoring goes on with them."""

import contextlib
import contextvars
import logging
import time

import torch

from ...errors import ConfigError, first_line

_log = logging.getLogger(__name__)

_SECONDS = 300
_current = contextvars.ContextVar("partial_sums", default=None)


class PartialSums:
    """What the scorings of a ``with`` block have summed up so far.

    Args:
        state (dict | None): what ``keep`` got from the same scoring of an interrupted run; the
            first scoring goes on from it.
        keep (Callable): called with a state every five minutes, and at the end of a scoring that
            took longer: ``"images"``, how many are summed up, and ``"sums"``, of plain data and
            tensors.
    """

    def __init__(self, state, keep):
        self._state, self._keep = state, keep

    @contextlib.contextmanager
    def used(self):
        """Use it for the scorings of the block, in this thread."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def _load(self, sums, device):
        state, self._state = self._state, None
        if state is None:
            return 0
        try:
            for each, values in zip(sums, state["sums"], strict=True):
                each.load_state_dict(_to(values, device))
        except Exception as error:  # of files that anyone may have changed: many
            raise ConfigError(
                f"the scores that an interrupted prune left do not fit ({first_line(error)}): "
                "delete unfinished.pth in the output folder, or leave out resume"
            ) from error
        _log.info("going on behind %d images of the scoring", state["images"])
        return state["images"]


class SumsByOwner:
    """A sum for each of some objects that have no names.

    Args:
        owners (Iterable): in an order that does not change.

    Attributes:
        of (dict[object, Tensor]): the sum of each owner that something was added for.
    """

    def __init__(self, owners):
        self._owners, self.of = list(owners), {}

    def add(self, owner, amount):
        """Add a tensor to the sum of an owner."""
        self.of[owner] = self.of.get(owner, 0) + amount

    def state_dict(self):
        """The sums by the number of their owner."""
        return {i: self.of[owner] for i, owner in enumerate(self._owners) if owner in self.of}

    def load_state_dict(self, state):
        """Go on from sums so far."""
        self.of = {self._owners[i]: value for i, value in state.items()}


def still_to_sum(batches, sums, device):
    """Batches that are not part of the sums yet: all but those that an interrupted run has summed.

    Args:
        batches (Collection): all, in an order that does not change.
        sums (Sequence): objects with ``state_dict`` and ``load_state_dict`` that the caller adds
            each batch to. Empty: nothing is kept.
        device (torch.device): of their tensors.

    Yields:
        tuple[int, object]: the number of a batch, from 0, and the batch.

    Raises:
        ConfigError: what the interrupted run has left does not fit.
    """
    partial = _current.get() if sums else None
    done = partial._load(sums, device) if partial else 0
    began = last = time.monotonic()
    for number, batch in enumerate(batches):
        if number < done:
            continue
        yield number, batch
        now = time.monotonic()
        since = began if number + 1 == len(batches) else last
        if partial and now - since >= _SECONDS:
            last = now
            states = [each.state_dict() for each in sums]
            partial._keep({"images": number + 1, "sums": states})


def _to(values, device):
    if isinstance(values, torch.Tensor):
        return values.to(device)
    if isinstance(values, dict):
        return {key: _to(value, device) for key, value in values.items()}
    return [_to(value, device) for value in values] if isinstance(values, list) else values
