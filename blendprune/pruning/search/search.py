"""How many channels each group keeps, and which, for a target."""

import bisect
import math
from dataclasses import dataclass

import torch

from ...errors import TargetUnreachable

# A target is met from below, within this fraction of it.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Limits:
    """What widths a group may take.

    Attributes:
        round_to (int): widths become multiples of it (those that change).
        max_pruning_ratio (float): no group loses more than this fraction of its dense width.
        global_pruning (bool): rank the channels of all groups together.
        isomorphic (bool): rank the channels of groups of the same make-up together.
    """

    round_to: int = 1
    max_pruning_ratio: float = 0.9
    global_pruning: bool = True
    isomorphic: bool = False


@dataclass
class _Chunk:
    """Channels of one group that go together, after those before it in the group have gone."""

    group: int
    channels: list
    score: float
    order: float = 0.0


def allowed_widths(group, dense_width, limits):
    """Widths below the present one that a group may take.

    Args:
        group (ChannelGroup): at its present width.
        dense_width (int): its width before the first cut.
        limits (Limits): what widths it may take.

    Returns:
        range: descending, in equal steps; empty if the group stays.
    """
    step = math.lcm(group.slots * group.block, limits.round_to)
    least = max(group.least, math.ceil((1 - limits.max_pruning_ratio) * dense_width - 1e-9))
    if group.stays:
        return range(0)
    return range((group.width - 1) // step * step, max(least, step) - 1, -step)


def ratio_notes(groups, limits):
    """One sentence for every group whose limits keep it from losing the ratio asked of it.

    Args:
        groups (list[ChannelGroup]): all groups, before the first cut.
        limits (Limits): what widths they may take.

    Returns:
        list[str]: sentences.
    """
    notes = []
    for group in groups:
        if group.ratio is not None:
            least = min(allowed_widths(group, group.width, limits), default=group.width)
            if least - 1 >= (1 - group.ratio) * group.width:
                notes.append(
                    f"{group.root}: keeps {least} of {group.width} channels, the least it may, "
                    f"although it was to lose {group.ratio:.0%}"
                )
    return notes


def channel_order(group, score):
    """The order in which the channels of a group go, part by part.

    Each part loses its own least important position, so that a group norm keeps equal counts. The
    channels of a block follow each other.

    Args:
        group (ChannelGroup): at its present width.
        score (Tensor): (width,).

    Returns:
        Tensor: (slots, width / slots) int64, channels of each part, least important first.
    """
    parts = score.view(group.slots, -1, group.block).mean(2)
    if group.aligned:
        parts = parts.mean(0, keepdim=True).expand(group.slots, -1)
    ranks = parts.argsort(dim=1, stable=True)
    order = (group.block * ranks[:, :, None] + torch.arange(group.block)).flatten(1)
    return order + order.shape[1] * torch.arange(group.slots)[:, None]


def chunks_of(index, group, score, dense_width, limits):
    """The channels of a group in the order in which they may go.

    Args:
        index (int): number of the group.
        group (ChannelGroup): at its present width.
        score (Tensor): (width,).
        dense_width (int): its width before the first cut.
        limits (Limits): what widths it may take.

    Returns:
        list[_Chunk]: least important first, scores ascending.
    """
    order = channel_order(group, score)
    # What the k-th step costs on average.
    steps = score[order].mean(0).tolist()
    indices = order.T.tolist()
    chunks, highest, start = [], -math.inf, 0
    for width in allowed_widths(group, dense_width, limits):
        end = (group.width - width) // group.slots
        highest = max(highest, sum(steps[start:end]) / (end - start))
        channels = [channel for row in indices[start:end] for channel in row]
        chunks.append(_Chunk(index, channels, highest))
        start = end
    return chunks


class Search:
    """Choice of channels to remove from a model at its present widths.

    A group with a ratio of its own loses that, in equal steps over the rounds; what the others
    lose is chosen with these groups at the widths they end with.

    Args:
        groups (list[ChannelGroup]): all groups, those that stay included.
        scores (list[Tensor | None]): one a group; None where the group stays.
        dense_widths (list[int]): widths before the first cut.
        limits (Limits): what widths they may take.
        part (float): of the rounds, how many are done after this one, 0 < part ≤ 1.

    Attributes:
        widths (list[int]): where groups without a ratio of their own start from, and where those
            with one end.
    """

    def __init__(self, groups, scores, dense_widths, limits, part=1.0):
        self.widths = [group.width for group in groups]
        self._given = []
        scopes = {}
        for index, (group, score) in enumerate(zip(groups, scores)):
            if group.ratio is not None:
                if score is not None:
                    chunks = chunks_of(index, group, score, dense_widths[index], limits)
                    self._give(index, chunks, dense_widths[index], group.ratio, part)
            # What an earlier round brought to its least width still counts in its scope.
            elif score is not None or group.width < dense_widths[index]:
                if limits.isomorphic:
                    scope = group.kind
                else:
                    scope = () if limits.global_pruning else index
                members, chunks = scopes.setdefault(scope, ([], []))
                members.append(index)
                if score is not None:
                    chunks += chunks_of(index, group, score, dense_widths[index], limits)
        # A chunk's place is the fraction of its scope's dense channels gone once it has gone: so
        # scopes shrink alike, and a group ranked alone shrinks like every other.
        self.chunks = []
        for members, chunks in scopes.values():
            dense = sum(dense_widths[index] for index in members)
            gone = dense - sum(self.widths[index] for index in members)
            for chunk in sorted(chunks, key=lambda chunk: chunk.score):
                gone += len(chunk.channels)
                chunk.order = gone / dense
                self.chunks.append(chunk)
        self.chunks.sort(key=lambda chunk: chunk.order)

    def by_ratio(self, ratio):
        """Channels to remove so that each scope has lost a fraction of its dense channels.

        Args:
            ratio (float): 0 < ratio < 1.

        Returns:
            dict[int, list[int]]: group number → channel indices.
        """
        return self._merge(chunk for chunk in self.chunks if chunk.order <= ratio + 1e-9)

    def by_cost(self, cost, target):
        """Channels to remove so that the cost is at most the target and close to it.

        Args:
            cost (Callable): list of widths, one a group → FLOPs or parameters.
            target (float): in the unit of ``cost``.

        Returns:
            dict[int, list[int]]: group number → channel indices.

        Raises:
            TargetUnreachable: even with every allowed channel gone the cost is above the target.
        """
        if self.least(cost) > target:
            raise TargetUnreachable("the widths that are allowed do not reach it", self.least(cost))
        # Narrowing an auxiliary head saves no FLOPs of inference, so leave it alone.
        now, widths = cost(self.widths), self.widths
        saving = {
            index
            for index, width in enumerate(self._widths_without(self.chunks))
            if width < widths[index] and cost([*widths[:index], width, *widths[index + 1 :]]) < now
        }
        chunks = [chunk for chunk in self.chunks if chunk.group in saving]
        while True:
            count = bisect.bisect_left(
                range(len(chunks) + 1),
                True,
                key=lambda n: cost(self._widths_without(chunks[:n])) <= target,
            )
            gone = self._fill_up(chunks[:count], cost, target)
            if count == 0 or cost(self._widths_without(gone)) >= (1 - TOLERANCE) * target:
                break
            # The last chunk is too large a step: do without it, and those behind it in its group.
            last = chunks[count - 1]
            others = [chunk for chunk in chunks[count:] if chunk.group != last.group]
            chunks = chunks[: count - 1] + others
            if cost(self._widths_without(chunks)) > target:
                break
        return self._merge(gone)

    def least(self, cost):
        """Cost with every channel gone that may go."""
        return cost(self._widths_without(self.chunks))

    def _give(self, index, chunks, dense_width, ratio, part):
        now = 1 - (1 - ratio) ** part
        for chunk in chunks:
            lost = dense_width - self.widths[index] + len(chunk.channels)
            if lost > ratio * dense_width + 1e-9:
                break
            self.widths[index] -= len(chunk.channels)
            if lost <= now * dense_width + 1e-9:
                self._given.append(chunk)

    def _fill_up(self, gone, cost, target):
        # The last chunk may have been a large one: give back what still fits under the target.
        widths, given_back, kept_from = self._widths_without(gone), set(), set()
        now = cost(widths)
        for chunk in reversed(gone):
            if now >= (1 - TOLERANCE / 8) * target:
                break
            if chunk.group in kept_from:
                continue
            widths[chunk.group] += len(chunk.channels)
            wider = cost(widths)
            if wider <= target:
                now = wider
                given_back.add(id(chunk))
            else:
                widths[chunk.group] -= len(chunk.channels)
                kept_from.add(chunk.group)
        return [chunk for chunk in gone if id(chunk) not in given_back]

    def _widths_without(self, chunks):
        widths = list(self.widths)
        for chunk in chunks:
            widths[chunk.group] -= len(chunk.channels)
        return widths

    def _merge(self, chunks):
        channels = {}
        for chunk in [*self._given, *chunks]:
            channels.setdefault(chunk.group, []).extend(chunk.channels)
        return channels
