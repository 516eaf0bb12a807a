"""Peak memory of activations, as a function of group widths.

What is counted: the bytes of all tensors that are alive at the same time in one inference forward
of the example inputs, up to the raw head outputs. Weights, the images as they are given, and what
operators need inside (workspaces) do not count. :mod:`.live_tensors` records the moments.
"""

import numpy as np

#: What a report says of its memory.
MEMORY_WORDS = (
    "memory: peak of the activation tensors that are alive together in one forward of the example "
    "inputs; weights and decoding do not count"
)


class PeakMemory:
    """The largest of several moments; each grows with the widths of the groups.

    Args:
        moments (list[dict[str, int]]): of each moment, name of the layer that the bytes are in
            proportion to → bytes; ``""`` for bytes that no width changes.
        sides (dict[str, tuple]): name of each layer → its width and, of each group that its output
            loses channels with, (index, entries per channel).
        widths (list[int]): of all groups now.
    """

    def __init__(self, moments, sides, widths):
        owners = list(dict.fromkeys(owner for moment in moments for owner in moment))
        places = {owner: place for place, owner in enumerate(owners)}
        amounts = np.zeros((len(moments), len(owners)))
        for row, moment in zip(amounts, moments):
            for owner, amount in moment.items():
                row[places[owner]] = amount
        # Part of the bytes of each owner that one channel of each group stands for.
        shares = np.zeros((len(owners), len(widths)))
        for owner, row in zip(owners, shares):
            width, groups = sides.get(owner, (1, ()))
            for index, per_channel in groups:
                row[index] += per_channel / width
        kept = _undominated(amounts.sum(1), amounts @ shares, np.array(widths))
        self._totals, self._slopes = amounts.sum(1)[kept], (amounts @ shares)[kept]

    def peak(self, lost):
        """Bytes of the largest moment.

        Args:
            lost (Sequence[int]): channels that each group has lost.

        Returns:
            float: bytes.
        """
        return float(self._moments(lost).max(initial=0.0))

    def excess(self, lost, limit):
        """How far all moments together are above a limit.

        Args:
            lost (Sequence[int]): channels that each group has lost.
            limit (float): in bytes.

        Returns:
            float: bytes; 0 if and only if the peak is within the limit.
        """
        return float(np.maximum(self._moments(lost) - limit, 0.0).sum())

    def _moments(self, lost):
        return self._totals - self._slopes @ np.array(lost, dtype=float)


def _undominated(totals, slopes, widths):
    """Rows that are the largest for some widths, or nearly so.

    A row is left out if another one is at least as large whatever the groups lose.
    """
    kept = []
    for row in np.argsort(-totals, kind="stable"):
        # The difference to a kept row is largest where each group has lost all or nothing.
        gain = np.maximum(slopes[kept] - slopes[row], 0.0) @ widths
        if not np.any(totals[row] - totals[kept] + gain <= 0):
            kept.append(row)
    return kept
