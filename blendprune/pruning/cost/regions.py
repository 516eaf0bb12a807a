"""Heads that run per region: for how many regions their FLOPs are."""

from dataclasses import dataclass

# Smaller heads do not decide what a target removes.
_MIN_SHARE = 0.1


@dataclass(frozen=True)
class RegionHead:
    """A stage of a model that runs on regions or instances.

    Attributes:
        name (str): the module with most of its FLOPs, for example ``"roi_heads.mask_head"``.
        count (int): regions an image that the FLOPs are for.
        flops (int): of all these regions.
    """

    name: str
    count: int
    flops: int

    @classmethod
    def between(cls, before, after, count):
        """The stage that ran between two states of a count.

        Args:
            before (dict[str, int]), after (dict[str, int]): FLOPs by module.
            count (int): regions an image.

        Returns:
            RegionHead: of what was added.
        """
        heads = {}
        for name, flops in after.items():
            head = ".".join(name.split(".")[:2])
            heads[head] = heads.get(head, 0) + flops - before[name]
        name = max(heads, key=heads.get)
        return cls(name or "the model itself", count, sum(heads.values()))


def region_notes(heads, total, min_share=_MIN_SHARE):
    """Say how many regions the FLOPs count, where that decides what pruning removes.

    Args:
        heads (list[RegionHead]): of a model.
        total (int): FLOPs of the model.
        min_share (float): of the FLOPs that a head must have to be named.

    Returns:
        list[str]: one sentence, or none.
    """
    large = [
        f"{head.count} regions an image in {head.name} ({head.flops / total:.0%} of all)"
        for head in heads
        if head.flops and head.flops >= min_share * total
    ]
    if not large:
        return []
    return [
        f"FLOPs are those of {' and '.join(large)}, as many as inference keeps at most; on images "
        "with fewer, such heads take less of the time: to make inference faster, prune to "
        "max_latency (--max-latency, PRUNER.MAX_LATENCY)"
    ]
