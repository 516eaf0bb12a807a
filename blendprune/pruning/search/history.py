"""The rounds that a prune has done, and going on behind those of one that was interrupted.

Scores and reconstruction take the time of a round. Which channels they chose, and the weights in
the end, are all that the next round needs of them: the rest follows from the dense model.
"""

import contextlib
import logging
import sys
from dataclasses import asdict

import torch

from ... import distributed
from ...errors import ConfigError
from ..scores.partial_sums import PartialSums
from .digests import data_digests, digest, text_digest

_log = logging.getLogger(__name__)


def identity_of(model, inputs, batches, sensitivity, options, how):
    """What decides which model a prune gives, as digests.

    Args:
        model (nn.Module): dense, outside the prunable view.
        inputs (list[dict]): to trace and count with.
        batches (list[list[dict]] | None): data for scores and reconstruction.
        sensitivity (Sensitivity | None): decides how much of each group goes.
        options (PruningOptions): how to prune.
        how (tuple): all other arguments.

    Returns:
        dict[str, str]: by what a message calls it.
    """
    measured = None if sensitivity is None else asdict(sensitivity)
    # No room imports the package as a whole.
    package = sys.modules[__name__.partition(".")[0]]
    return {
        "releases": f"blendprune {package.__version__}, torch {torch.__version__}",
        "weights": digest(model),
        "images": text_digest(data_digests([inputs]) + data_digests(batches)),
        "sensitivity": text_digest(measured),
        "options": text_digest([options, options.rounding, how]),
    }


class History:
    """The rounds of a prune, and those of an interrupted one that it repeats first.

    A round that is repeated removes the same channels, without scores and reconstruction. After the
    last of them the model gets the weights that it had. The next round goes on with what a scoring
    had summed up.

    Args:
        identity (dict[str, str]): from :func:`identity_of`.
        state (dict | None): that ``keep`` got. What is of another prune is not used: the log says
            why.
        keep (Callable): called with what another run needs to go on, of plain data and tensors:
            the tensors are those of the model. None: nothing is kept.

    Attributes:
        repeats (int): how many rounds are repeated in all.
    """

    def __init__(self, identity=None, state=None, keep=None):
        self._identity, self._state, self._removed = identity, state, []
        self._keep = keep
        if state is not None and (why := _misfit(state, identity)):
            _log.warning("what an interrupted prune left is not used (%s): pruning anew", why)
            self._state = None
        none = {"identity": identity, "removed": [], "weights": {}, "notes": []}
        # What was kept last, without sums of scores.
        self._kept = {key: (self._state or none)[key] for key in none}
        self.repeats = len(self._kept["removed"])

    @property
    def is_behind(self):
        """Whether the next round was done before."""
        return len(self._removed) < self.repeats

    def channels(self, groups):
        """What the next round removes, if it was done before.

        Args:
            groups (list[ChannelGroup]): all groups, at their present widths.

        Returns:
            dict[int, list[int]] | None: number of the group → channels; None for a new round.

        Raises:
            ConfigError: the groups are others.
        """
        if not self.is_behind:
            return None
        known = self._state["removed"][len(self._removed)]
        found = {i: known[group.root] for i, group in enumerate(groups) if group.root in known}
        for index, channels in found.items():
            width = groups[index].width
            if max(channels, default=0) >= width or len(set(channels)) >= width:
                raise _no_fit(f"{groups[index].root} has {width} channels")
        if len(found) < len(known):
            raise _no_fit("it has other groups")
        return found

    def add(self, groups, channels, model, notes):
        """Note a round that is done; the model gets its weights if no more rounds are repeated.

        Args:
            groups (list[ChannelGroup]): all groups, before the round.
            channels (dict[int, Sequence[int]]): number of the group → channels that it lost.
            model (nn.Module): outside the prunable view.
            notes (list[str]): of the run; in place of its own it gets those of the interrupted one.
        """
        was_behind = self.is_behind
        self._removed.append({groups[i].root: list(gone) for i, gone in channels.items()})
        if was_behind and not self.is_behind:
            _give_weights(model, self._state["weights"])
            notes[:] = self._state["notes"]

    def keep(self, model, notes):
        """Keep what another run needs to go on behind the last round, if that was a new one.

        Args:
            model (nn.Module): outside the prunable view.
            notes (list[str]): of the run.
        """
        if self._keep is not None and len(self._removed) > self.repeats:
            self._kept = {
                "identity": self._identity,
                "removed": list(self._removed),
                "weights": dict(model.state_dict()),
                "notes": list(notes),
            }
            self._keep(self._kept)

    @contextlib.contextmanager
    def scoring(self):
        """Keep the sums of long scorings in a ``with`` block, and go on with those of a state.

        Sums of several processes are not kept.
        """
        if distributed.processes() > 1:
            yield
            return

        def keep(sums):
            if self._keep is not None:
                self._keep(self._kept | {"scoring": sums})

        goes_on = self._state and len(self._removed) == self.repeats
        with PartialSums(self._state.get("scoring") if goes_on else None, keep).used():
            yield


def _misfit(state, identity):
    """Why a state is not of a prune; empty if it is."""
    try:
        fine = all(
            _are_channels(channels) for each in state["removed"] for channels in each.values()
        )
        fine = fine and all(isinstance(x, torch.Tensor) for x in state["weights"].values())
        fine = fine and all(isinstance(note, str) for note in state["notes"])
        if (scoring := state.get("scoring")) is not None:
            fine = fine and _is_count(scoring["images"]) and isinstance(scoring["sums"], list)
        others = [name for name, value in identity.items() if state["identity"].get(name) != value]
    except (AttributeError, KeyError, TypeError):
        fine = False
    if not fine:
        return "it is no state of a prune"
    return f"of other {', '.join(others)}" if others else ""


def _are_channels(channels):
    return isinstance(channels, list) and all(map(_is_count, channels))


def _is_count(x):
    return type(x) is int and x >= 0


def _no_fit(why):
    return ConfigError(
        f"what an interrupted prune left does not fit the model ({why}): delete unfinished.pth in "
        "the output folder, or leave out resume"
    )


def _give_weights(model, weights):
    """Load weights in place of the tensors that the model has: a snapshot refers to those.

    Raises:
        ConfigError: they are of another model.
    """
    own, copies = model.state_dict(), {}
    forms = [{name: (x.dtype, x.shape) for name, x in each.items()} for each in (own, weights)]
    if others := sorted(dict(forms[0].items() ^ forms[1].items())):
        raise _no_fit(f"it has another {others[0]}")
    for name, value in weights.items():
        copies.setdefault(_place(value), value.detach().to(own[name].device, copy=True))
    model.load_state_dict({k: copies[_place(value)] for k, value in weights.items()}, assign=True)
    # What layers share in the file, they share in the model.
    shared = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = shared.setdefault(_place(p), p)


def _place(tensor):
    return tensor.data_ptr() or id(tensor), tuple(tensor.shape)
