"""Scores divided by costs: channels that save more go first."""

from ...errors import ConfigError

#: Units of cost that scores can be divided by.
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
    """Divide each score by the cost that removing one channel of the group saves.

    Args:
        scores (list[Tensor | None]): (width,) for each group; None where the width stays.
        groups (list[ChannelGroup]): all groups, at their present widths.
        cost (Callable): list of widths, one per group → their cost.

    Returns:
        list[Tensor | None]: scores per unit of cost; a group that saves nothing counts as saving
        as little as any other group does.
    """
    widths = [group.width for group in groups]
    whole = cost(widths)
    saved = []
    for index, group in enumerate(groups):
        fewer = list(widths)
        fewer[index] -= group.num_parts
        saved.append((whole - cost(fewer)) / group.num_parts)
    # Rounding errors of large sums are no savings.
    some = [amount for amount in saved if amount > 1e-9 * whole]
    lowest = min(some, default=1.0)
    return [
        None if score is None else score / max(amount, lowest)
        for score, amount in zip(scores, saved)
    ]
