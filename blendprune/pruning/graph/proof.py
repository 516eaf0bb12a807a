"""Proof of the groups: without some channels, a model gives what it gives with them masked.

A graph of channels is found by looking at operators, and may be wrong about one: about a map gated
by one of its own channels, about a layer that reads where no gradient follows. Whether it is wrong
shows when channels go. So some channels of all groups are removed at once, for a moment, and every
layer must give what it gives in the dense model with the same channels masked. If one does not, the
guilty group is found by bisection, and its width stays.
"""

from ...errors import error_line
from ..tracing.hooks import evaluating
from ..tracing.snapshot import Snapshot
from .channel_graph import ChannelGraph
from .comparison import Recorder, first_difference, make_lively
from .forwards import forwards_of
from .inputs import tiny_inputs
from .masking import masking
from .removal import chosen_channels, kept_outputs, removing


def proven_graph(
    model, example_inputs, ignored_layers=(), pruning_ratio_dict=None, frozen=None, batches=()
):
    """The groups of a model, proven.

    Args:
        model (nn.Module), example_inputs, ignored_layers, pruning_ratio_dict, batches: as for
            :class:`ChannelGraph`.
        frozen (dict[str, str]): what an earlier proof of the model has frozen, which is not proven
            again; None to prove.

    Returns:
        tuple[ChannelGraph, list[ChannelGroup]]: the graph, whose ``frozen`` says what the proof
        froze, and all its groups.
    """
    graph = ChannelGraph(model, example_inputs, ignored_layers, pruning_ratio_dict, frozen, batches)
    groups = graph.groups()
    if frozen is None:
        _Proof(graph, groups)()
    return graph, groups


class _Proof:
    """Freezes the groups whose channels cannot be removed as the graph says."""

    def __init__(self, graph, groups):
        self.graph, self.model = graph, graph.model
        self.groups = [group for group in groups if group.prunable]
        self.numbers = {group.root: number for number, group in enumerate(self.groups)}
        self.inputs = tiny_inputs(self.model, graph.inputs)

    def __call__(self):
        if not self.groups:
            return
        snapshot = Snapshot(self.model)
        try:
            with evaluating(self.model):
                make_lively(self.model)
                self.recorder = Recorder(self.model)
                self._freeze_the_guilty()
        finally:
            snapshot.restore()

    def _freeze_the_guilty(self):
        groups, passing = self._without_guilty(self.groups), 0
        # Some fail together only.
        while reason := self._fault(groups):
            # The first groups pass, with the next one they fail.
            failing = len(groups)
            while failing - passing > 1:
                middle = (passing + failing) // 2
                found = self._fault(groups[:middle])
                if found:
                    failing, reason = middle, found
                else:
                    passing = middle
            self._freeze(groups[failing - 1], reason)
            groups = groups[: failing - 1] + groups[failing:]

    def _without_guilty(self, groups, failed=False):
        """Freeze the groups that fail by halving; returns the others.

        Args:
            groups (list[ChannelGroup]): some.
            failed (bool): they are known to fail, unless groups fail together only.
        """
        if len(groups) < 2 or not failed:
            reason = self._fault(groups)
            if not reason:
                return groups
            if len(groups) == 1:
                self._freeze(groups[0], reason)
                return []
        middle = len(groups) // 2
        first = self._without_guilty(groups[:middle])
        # If the first half passes, the second fails.
        return first + self._without_guilty(groups[middle:], len(first) == middle)

    def _freeze(self, group, reason):
        group.frozen_reason = self.graph.frozen[group.root] = reason

    def _fault(self, groups):
        """What goes wrong without channels of some groups; empty if nothing does."""
        chosen = [chosen_channels(group, self.numbers[group.root]) for group in groups]
        # A gate by the first channel shows when that one goes, a gate by the last likewise.
        passes = 2 if any(len(choices) > 1 for choices in chosen) else 1
        for number in range(passes):
            gone = [
                (g, choices[min(number, len(choices) - 1)]) for g, choices in zip(groups, chosen)
            ]
            if found := self._fault_without(gone):
                return found
        return ""

    def _fault_without(self, gone):
        recorder, forwards = self.recorder, self._forwards()
        with masking(gone):
            dense = [recorder(forward) for forward in forwards]
        if dense[0].error is not None and self.inputs is not self.graph.inputs:
            # The images are too small.
            self.inputs = self.graph.inputs
            return self._fault_without(gone)
        kept = kept_outputs(gone)
        try:
            with removing(self.graph, gone):
                pruned = [recorder(forward, like=run) for forward, run in zip(forwards, dense)]
        except Exception as error:
            return f"its channels cannot be removed ({error_line(error)})"
        differences = [first_difference(a, b, kept) for a, b in zip(dense, pruned)]
        if not any(differences):
            return ""
        # What moves as much when every layer is rounded anew says nothing.
        with masking(gone):
            rounded = [recorder(f, like=run, noise=True) for f, run in zip(forwards, dense)]
        for runs in zip(dense, pruned, rounded):
            if difference := first_difference(*runs[:2], kept, runs[2]):
                return self._reason(difference)
        self._note_unproven(next(filter(None, differences)))
        return ""

    def _forwards(self):
        """Those that showed all layers."""
        return forwards_of(self.model, self.inputs, self.graph.batches)[: self.graph.forwards]

    def _note_unproven(self, difference):
        layer = self.graph.names.get(difference.layer, "the output")
        note = f"groups are not proven from {layer} on: rounding alone changes what it gives"
        if note not in self.graph.notes:
            self.graph.notes.append(note)

    def _reason(self, difference):
        where = difference.layer
        layer = self.graph.names.get(where, "the output")
        if difference.error is None:
            return f"an operator in front of {layer} mixes its channels"
        node = self.graph.dependencies.module2node.get(where)
        if difference.inside and not (node and node.inputs):
            return f"{layer} reads it where no gradient follows"
        place = "in" if difference.inside else "behind"
        error = error_line(difference.error)
        return f"without some of its channels, the model fails {place} {layer} ({error})"
