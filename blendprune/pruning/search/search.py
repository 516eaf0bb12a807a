"""How many channels each group keeps, and which, for a target."""

import bisect
import math
from dataclasses import dataclass

from ...errors import TargetUnreachable

# A target is met from below, within this fraction of it.
TOLERANCE = 0.02


@dataclass
class _Chunk:
    """Channels of one group that go together, once the chunks before it in the group are gone."""

    group: int
    channels: list
    score: float
    order: float = 0.0


def allowed_widths(group, dense_width, options):
    """Widths below the present one that a group may take.

    Args:
        group (ChannelGroup): at its present width.
        dense_width (int): its width before anything was pruned.
        options (PruningOptions): with ``rounding`` and ``max_pruning_ratio``.

    Returns:
        range: descending, in equal steps; empty if the width stays.
    """
    if group.frozen_reason:
        return range(0)
    most = options.max_pruning_ratio if group.ratio is None else group.ratio
    step = options.rounding.step(group.num_parts * group.block_size, dense_width, most)
    limit = math.ceil((1 - options.max_pruning_ratio) * dense_width - 1e-9)
    return range((group.width - 1) // step * step, max(group.min_width, limit, step) - 1, -step)


def end_widths(groups, dense_widths, options):
    """Where a search starts from, and the smallest widths that it can reach.

    Args:
        groups (list[ChannelGroup]): all groups, prunable or not.
        dense_widths (list[int]): their widths before anything was pruned.
        options (PruningOptions): which widths they may take.

    Returns:
        tuple[list[int], list[int]]: widths with only the groups pruned that have a ratio of their
        own, and widths with everything removed that may go.
    """
    start, smallest = [], []
    for group, dense in zip(groups, dense_widths):
        allowed = allowed_widths(group, dense, options)
        if group.ratio is not None:
            allowed = [w for w in allowed if dense - w <= group.ratio * dense + 1e-9]
        end = min(allowed, default=group.width)
        start.append(group.width if group.ratio is None else end)
        smallest.append(end)
    return start, smallest


def ratio_notes(groups, options):
    """One sentence for every group whose limits keep it from losing the ratio asked of it.

    Args:
        groups (list[ChannelGroup]): all groups, before anything is pruned.
        options (PruningOptions): which widths they may take.

    Returns:
        list[str]: sentences.
    """
    notes = []
    for group in groups:
        if group.ratio is not None:
            fewest = min(allowed_widths(group, group.width, options), default=group.width)
            if fewest - 1 >= (1 - group.ratio) * group.width:
                notes.append(
                    f"{group.root}: keeps {fewest} of {group.width} channels, its minimum width, "
                    f"although it was to lose {group.ratio:.0%}"
                )
    return notes


def channel_order(group, score):
    """The order in which the channels of a group go, part by part.

    Each part loses its own least important position: a group norm keeps equal counts. The channels
    of a block follow each other.

    Args:
        group (ChannelGroup): at its present width.
        score (Tensor): (width,).

    Returns:
        Tensor: (num_parts, width / num_parts) int64, channels of each part, least important first.
    """
    parts = score.view(group.num_parts, -1, group.block_size).mean(2)
    if group.aligned:
        parts = parts.mean(0, keepdim=True).expand(group.num_parts, -1)
    ranks = parts.argsort(dim=1, stable=True)
    block = ranks.new_tensor(range(group.block_size))
    order = (group.block_size * ranks[:, :, None] + block).flatten(1)
    first = order.shape[1] * ranks.new_tensor(range(group.num_parts))
    return order + first[:, None]


def chunks_of(index, group, score, dense_width, options):
    """The channels of a group in the order in which they may go.

    Args:
        index (int): number of the group.
        group (ChannelGroup): at its present width.
        score (Tensor): (width,).
        dense_width (int): its width before anything was pruned.
        options (PruningOptions): which widths it may take.

    Returns:
        list[_Chunk]: least important first, scores ascending.
    """
    order = channel_order(group, score)
    # Average cost of the k-th step over the parts.
    steps = score[order].mean(0).tolist()
    indices = order.T.tolist()
    chunks, highest, start = [], -math.inf, 0
    for width in allowed_widths(group, dense_width, options):
        end = (group.width - width) // group.num_parts
        highest = max(highest, sum(steps[start:end]) / (end - start))
        channels = [channel for row in indices[start:end] for channel in row]
        chunks.append(_Chunk(index, channels, highest))
        start = end
    return chunks


class Search:
    """Choice of channels to remove from a model at its present widths.

    A group with a ratio of its own loses that ratio, in equal steps over the rounds. The others are
    chosen as if these groups had their final widths already.

    Args:
        groups (list[ChannelGroup]): all groups, prunable or not.
        scores (list[Tensor | None]): one per group; None where the width stays.
        dense_widths (list[int]): widths before anything was pruned.
        options (PruningOptions): which widths they may take, and the scope of the ranking.
        part (float): fraction of the rounds that is done after this one, 0 < part ≤ 1.

    Attributes:
        widths (list[int]): present widths, but final widths of groups with a ratio of their own.
        smallest (list[int]): widths with everything removed that may go.
        reached (float | None): what is left of the cost after the last :meth:`by_cost`.
    """

    def __init__(self, groups, scores, dense_widths, options, part=1.0):
        self.reached = None
        self.widths, self.smallest = end_widths(groups, dense_widths, options)
        self._given = []
        scopes = {}
        for index, (group, score) in enumerate(zip(groups, scores)):
            chunks = []
            if score is not None:
                chunks = chunks_of(index, group, score, dense_widths[index], options)
            if group.ratio is not None:
                self._give(group, chunks, dense_widths[index], part)
            # A group that an earlier round brought to its minimum still counts in its scope.
            elif score is not None or group.width < dense_widths[index]:
                members, all_chunks = scopes.setdefault(_scope(group, index, options), ([], []))
                members.append(index)
                all_chunks += chunks
        # The order of a chunk is the fraction of its scope's dense channels that is gone after it.
        # Scopes therefore shrink alike, and a group ranked alone shrinks like every other.
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
        """Channels to remove so that each scope loses a fraction of its dense channels.

        Args:
            ratio (float): 0 < ratio < 1.

        Returns:
            dict[int, list[int]]: group number → channel indices.
        """
        return self._merge(chunk for chunk in self.chunks if chunk.order <= ratio + 1e-9)

    def by_cost(self, cost, target, excess=None):
        """Channels to remove so that the cost is at most the target and close to it.

        Args:
            cost (Callable): list of widths, one per group → cost.
            target (float): in the unit of ``cost``.
            excess (Callable): for a cost that is the largest of several: list of widths → how far
                all of these are above the target. None: the cost is one sum.

        Returns:
            dict[int, list[int]]: group number → channel indices.

        Raises:
            TargetUnreachable: the cost is above the target with everything removed that may go.
        """
        if self.least(cost) > target:
            raise TargetUnreachable(
                "the widths that are allowed do not reach the target", self.least(cost)
            )
        # Narrowing an auxiliary head saves no FLOPs of inference: leave it alone.
        saving = self._saving_groups(excess or cost)
        chunks = [chunk for chunk in self.chunks if chunk.group in saving]
        while True:
            count = bisect.bisect_left(
                range(len(chunks) + 1),
                True,
                key=lambda n: cost(self._widths_without(chunks[:n])) <= target,
            )
            gone = self._fill_up(chunks[:count], cost, target, thoroughly=excess is not None)
            self.reached = cost(self._widths_without(gone))
            if count == 0 or self.reached >= (1 - TOLERANCE) * target:
                break
            # The last chunk is too large a step: leave it and those behind it in its group.
            last = chunks[count - 1]
            others = [chunk for chunk in chunks[count:] if chunk.group != last.group]
            chunks = chunks[: count - 1] + others
            if cost(self._widths_without(chunks)) > target:
                break
        return self._merge(gone)

    def least(self, cost):
        """Cost with everything removed that may go."""
        return cost(self.smallest)

    def _saving_groups(self, cost):
        now, widths = cost(self.widths), self.widths
        return {
            index
            for index, width in enumerate(self.smallest)
            if width < widths[index] and cost([*widths[:index], width, *widths[index + 1 :]]) < now
        }

    def _give(self, group, chunks, dense_width, part):
        """Choose the chunks that a group with a ratio of its own has lost after this round."""
        now, width = 1 - (1 - group.ratio) ** part, group.width
        for chunk in chunks:
            lost = dense_width - width + len(chunk.channels)
            if lost > min(now, group.ratio) * dense_width + 1e-9:
                break
            width -= len(chunk.channels)
            self._given.append(chunk)

    def _fill_up(self, gone, cost, target, thoroughly):
        # The last chunk may have been a large one: give back what still fits under the target. Of
        # a cost that is the largest of several, most chunks do not matter once it is met.
        widths, given_back, kept_from = self._widths_without(gone), set(), set()
        now = cost(widths)
        for chunk in reversed(gone):
            if now >= (1 - TOLERANCE / 8) * target and not thoroughly:
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


def _scope(group, index, options):
    """Groups of one scope are ranked together."""
    if options.isomorphic:
        return group.structure
    return () if options.global_pruning else index
