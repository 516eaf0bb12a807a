"""Sensitivity as data: the rise of the training loss when a group loses channels."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

from ...errors import ConfigError
from ...files import save_json
from ..graph.groups import ChannelGroup
from ..scores import importance_name
from .digests import digest
from .search import channel_order

#: What tells the file of a measurement.
FORMAT = {"format": "blendprune.sensitivity", "version": 1}


@dataclass
class GroupSensitivity:
    """The loss with the least important channels of one group masked.

    Attributes:
        width (int): channels of the group.
        masked (list[int]): how many were masked, ascending.
        loss (list[float]): the loss then.
    """

    width: int
    masked: list[int]
    loss: list[float]

    def rises(self, loss: float) -> list[float]:
        """Rise of the loss, made monotone: more masked channels never cost less.

        Args:
            loss (float): with no channel masked.

        Returns:
            list[float]: at least 0, one for each of ``masked``.
        """
        return list(itertools.accumulate((x - loss for x in self.loss), max, initial=0.0))[1:]

    def marginal(self, loss: float) -> np.ndarray:
        """Rise of the loss with each channel that goes.

        It is the lower convex hull of the monotone curve, with the last slope beyond its end.

        Args:
            loss (float): with no channel masked.

        Returns:
            np.ndarray: (width,), ascending, in the order in which channels go.
        """
        hull: list[tuple[int, float]] = []
        for point in zip([0, *self.masked], [0.0, *self.rises(loss)]):
            if hull and point[0] == hull[-1][0]:
                continue  # in a narrow group, two fractions give the same number of channels
            while len(hull) > 1 and _slope(hull[-1], point) <= _slope(hull[-2], hull[-1]):
                hull.pop()
            hull.append(point)
        lengths = [b[0] - a[0] for a, b in itertools.pairwise(hull)]
        lengths[-1] += self.width - hull[-1][0]
        return np.repeat([_slope(a, b) for a, b in itertools.pairwise(hull)], lengths)


@dataclass
class Sensitivity:
    """What :func:`blendprune.measure_sensitivity` found.

    Attributes:
        weights (str): SHA-256 of the model's state dict.
        importance (str): the score that says which channels of a group are masked first.
        ratios (list[float]): fractions of the channels that were masked.
        images (int): how many the loss is the mean over.
        loss (float): of the model as it is: the sum of its training losses.
        groups (dict[str, GroupSensitivity]): root of each group that may be pruned → its curve.
    """

    # Losses are the price of a channel, see Importance.
    per_cost = True

    weights: str
    importance: str
    ratios: list[float]
    images: int
    loss: float
    groups: dict[str, GroupSensitivity] = field(default_factory=dict)

    def save(self, path: str) -> None:
        """Write it as JSON.

        Args:
            path (str): any address PathManager knows; what is there is replaced.

        Raises:
            CheckpointError: the path cannot be written.
        """
        save_json(FORMAT | asdict(self), path)

    def check(
        self,
        model: nn.Module,
        importance: str | Callable[..., Tensor],
        source: str = "the sensitivity",
        ratios: Sequence[float] | None = None,
    ) -> None:
        """Refuse a measurement of another model or importance.

        Args:
            model (nn.Module): at the weights that it is to be used for.
            importance (str | Callable): as for :func:`blendprune.prune`.
            source (str): what the message calls it.
            ratios (Sequence[float]): the fractions wanted, if it matters.

        Raises:
            ConfigError: weights, score or fractions are others.
        """
        wanted = {"weights": digest(model), "importance": importance_name(importance)}
        if ratios is not None:
            wanted["ratios"] = list(ratios)
        for what, want in wanted.items():
            found = getattr(self, what)
            if what == "importance":
                found = importance_name(found)
            if found != want:
                was = "" if what == "weights" else f" ({found}, not {want})"
                raise ConfigError(
                    f"{source} was measured with other {what}{was}: measure it again, in another "
                    "file"
                )

    def rescale(
        self,
        scores: list[Tensor | None],
        groups: list[ChannelGroup],
        dense_widths: list[int],
    ) -> list[Tensor | None]:
        """Scores with the given order within each group, and the scale of the loss between groups.

        Args:
            scores (list[Tensor | None]): (width,) for each group; None where the width stays.
            groups (list[ChannelGroup]): all groups, at their present widths.
            dense_widths (list[int]): their widths when the sensitivity was measured.

        Returns:
            list[Tensor | None]: rise of the loss with the channel.

        Raises:
            ConfigError: a group was not measured, or at another width.
        """
        rescaled = []
        for group, score, dense in zip(groups, scores, dense_widths):
            if score is not None:
                curve = self.groups.get(group.root)
                if curve is None or curve.width != dense:
                    raise ConfigError(
                        f"the sensitivity has no curve for {group.root} of {dense} channels: "
                        "measure it again"
                    )
                marginal = curve.marginal(self.loss)[dense - group.width :]
                # A step removes one channel of each part.
                steps = torch.from_numpy(marginal).view(-1, group.num_parts).mean(1)
                order = channel_order(group, score)
                score = torch.empty(group.width, dtype=torch.float64)
                score[order] = steps.expand(order.shape)
            rescaled.append(score)
        return rescaled


def sensitivity_table(sensitivity):
    """The measurement as text: rise of the loss when fractions of a group are masked.

    ::

        group                             width    10 %    30 %    50 %    70 %    90 %
        ------------------------------  -------  ------  ------  ------  ------  ------
        backbone.bottom_up.res3.0.conv1     128   0.000   0.002   0.011   0.060   0.410
        …

        loss as it is: 1.234 (64 images, obs)

    Args:
        sensitivity (Sensitivity): from :func:`measure_sensitivity`.

    Returns:
        str: several lines, no line break at the end.
    """
    headers = [
        "group",
        "width",
        *(f"{ratio:.0%}".replace("%", " %") for ratio in sensitivity.ratios),
    ]
    rows = [
        [root, group.width, *(f"{rise:.3f}" for rise in group.rises(sensitivity.loss))]
        for root, group in sensitivity.groups.items()
    ]
    align = ["left"] + ["right"] * (len(headers) - 1)
    table = tabulate(rows, headers, disable_numparse=True, colalign=align)
    return (
        f"{table}\n\nloss as it is: {sensitivity.loss:.3f} ({sensitivity.images} images, "
        f"{sensitivity.importance})"
    )


def _slope(a, b):
    return (b[1] - a[1]) / (b[0] - a[0])
