"""Scores by what a channel costs, so that channels which free more go first."""

from ...errors import ConfigError

#: What scores can be divided by; each is a kind of :class:`blendprune.pruning.CostModel`.
NORMALIZERS = ("flops", "params", "activations")


def check_normalizer(normalize):
    """Return ``normalize``, "" as None.

    Raises:
        ConfigError: it is neither None nor one of :data:`NORMALIZERS`.
    """
    if normalize not in (None, "", *NORMALIZERS):
        raise ConfigError(
            f"normalize {normalize!r} is not known; known are {', '.join(NORMALIZERS)}, or None"
        )
    return normalize or None


def normalize_scores(scores, groups, cost):
    """Divide scores by what the removal of one channel of the group frees.

    Args:
        scores (list[Tensor | None]): (width,) for each group; None where the group stays.
        groups (list[ChannelGroup]): all groups, at their present widths.
        cost (Callable): widths, one a group → what they cost.

    Returns:
        list[Tensor | None]: in score per unit of cost; a group that frees nothing counts as
        freeing as little as any other does.
    """
    widths = [group.width for group in groups]
    whole = cost(widths)
    freed = []
    for index, group in enumerate(groups):
        fewer = list(widths)
        fewer[index] -= group.slots
        freed.append((whole - cost(fewer)) / group.slots)
    # Of a difference of large sums, what rounding leaves is nothing.
    some = [amount for amount in freed if amount > 1e-9 * whole]
    least = min(some, default=1.0)
    return [
        None if score is None else score / max(amount, least)
        for score, amount in zip(scores, freed)
    ]
