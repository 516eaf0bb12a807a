"""Channel groups: layers whose channels can only be removed together."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Member:
    """One side of one layer that loses channels with its group.

    Attributes:
        layer (str): module name (for a parameter outside any known layer, the parameter's).
        role (str): ``"out"`` for what makes or normalises the channels, ``"in"`` for what reads.
        per_channel (float): entries of the layer that one channel of the group stands for; above 1
            where a linear reads a flattened map, below where it reads what attention made of three.
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
        slots (int): equal parts (of a group norm or a grouped conv) that must keep equal counts.
        aligned (bool): the parts must also keep the same positions, as grouped convs want.
        per_slot (int): least channels of a part. A group norm over a single channel would wipe out
            what it sees on a 1x1 map, and torch refuses to compute it; a grouped conv would become
            a depthwise one, whose channels go with those of its input.
        block (int): channels next to each other that go together: a head of attention.
        stays (str): why the width must stay; empty if it may change.
        ratio (float | None): fraction of its dense width that it loses whatever the target; None
            where the target decides.
        notes (list[str]): what was asked for some of its members and holds for all.
    """

    root: str
    width: int
    members: list
    slots: int = 1
    aligned: bool = False
    per_slot: int = 1
    block: int = 1
    stays: str = ""
    ratio: float | None = None
    notes: list = field(default_factory=list)
    handle: object = field(default=None, repr=False)

    @property
    def prunable(self):
        return not self.stays

    @property
    def least(self):
        """The smallest width that the members allow."""
        return (
            self.width if self.stays else min(self.width, self.slots * self.per_slot * self.block)
        )

    @property
    def kind(self):
        """Groups of one kind have the same make-up, whatever their widths."""
        items = [(type(dep.target.module).__name__, dep.handler.__name__) for dep, _ in self.handle]
        return tuple(sorted(items))


def group_notes(groups):
    """What the groups have to say: which stay although they end in no prediction, and why.

    Args:
        groups (list[ChannelGroup]): from :meth:`ChannelGraph.groups`.

    Returns:
        list[str]: sentences.
    """
    plain = ("", "prediction layer")
    stays = [
        f"{g.root}: all {g.width} channels stay: {g.stays}" for g in groups if g.stays not in plain
    ]
    return stays + [note for group in groups for note in group.notes]
