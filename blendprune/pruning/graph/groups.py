"""Channel groups: layers whose channels can only be removed together."""

import functools
from dataclasses import dataclass, field

from .layer_sides import sides_of


@dataclass(frozen=True)
class Member:
    """One side of one layer that loses channels with its group.

    Attributes:
        layer (str): module name (for a parameter outside any known layer, the parameter's).
        role (str): ``"out"`` for what makes or normalises the channels, ``"in"`` for what reads.
        per_channel (float): entries of the layer that one channel of the group stands for. It is
            above 1 where a linear reads a flattened map, and below 1 where a layer reads what
            attention makes of three channels.
    """

    layer: str
    role: str
    per_channel: float


@dataclass
class ChannelGroup:
    """Layers whose channels can only be removed together.

    Attributes:
        root (str): name of the layer that the group is named after.
        width (int): channels now.
        members (list[Member]): every layer side that changes with the group.
        num_parts (int): equal parts (of a group norm or a grouped conv) that keep equal counts.
        aligned (bool): whether the parts also keep equal positions, as grouped convs want.
        min_part_width (int): fewest channels of a part. A group norm over one channel erases a 1x1
            map, and torch refuses to compute it. A grouped conv with one channel per group is a
            depthwise conv, whose channels go with those of its input.
        block_size (int): neighbouring channels that go together: a head of attention.
        frozen_reason (str): why the width stays; empty if the group may be pruned.
        ratio (float | None): fraction of its dense width that it loses with any target;
            None if the target decides.
        notes (list[str]): settings of some of its members that hold for all.
        handle (tp.dependency.Group): the group of Torch-Pruning with all channels, for callables
            that score such groups.
    """

    root: str
    width: int
    members: list
    num_parts: int = 1
    aligned: bool = False
    min_part_width: int = 1
    block_size: int = 1
    frozen_reason: str = ""
    ratio: float | None = None
    notes: list = field(default_factory=list)
    handle: object = field(default=None, repr=False)

    @property
    def prunable(self):
        """Whether the width may change."""
        return not self.frozen_reason

    @property
    def min_width(self):
        """The fewest channels that the members allow."""
        if self.frozen_reason:
            return self.width
        return min(self.width, self.num_parts * self.min_part_width * self.block_size)

    @property
    def structure(self):
        """What isomorphic groups have in common: types of layers and sides, sorted."""
        items = [(type(dep.target.module).__name__, dep.handler.__name__) for dep, _ in self.handle]
        return tuple(sorted(items))

    @property
    def root_layer(self):
        """The layer (nn.Module) that the group is named after."""
        return self.handle[0].dep.target.module

    @functools.cached_property
    def sides(self):
        """Every side of every layer (list[LayerSide]) that changes with the group."""
        return sides_of(self.handle)

    @property
    def readers(self):
        """The sides (list[LayerSide]) of convs and linears that read the channels."""
        return [side for side in self.sides if side.reads]

    @property
    def layers(self):
        """The layers (list[nn.Module]) of the sides."""
        return [side.layer for side in self.sides]


def group_notes(groups):
    """Which groups keep their width although they end in no prediction layer, and why.

    Args:
        groups (list[ChannelGroup]): from :meth:`ChannelGraph.groups`.

    Returns:
        list[str]: sentences.
    """
    plain = ("", "prediction layer")
    frozen = [
        f"{g.root}: all {g.width} channels stay: {g.frozen_reason}"
        for g in groups
        if g.frozen_reason not in plain
    ]
    return frozen + [note for group in groups for note in group.notes]
