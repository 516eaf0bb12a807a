"""A sensitivity that is being measured: the file beside the one to come, to go on from."""

import json
import logging
import math
from dataclasses import asdict

import torch

from ...errors import first_line
from ...files import save_json
from .sensitivity import GroupSensitivity, Sensitivity
from .sensitivity_file import check_values

_log = logging.getLogger(__name__)

_FORMAT = {"format": "blendprune.unfinished_sensitivity", "version": 1}


class UnfinishedSensitivity:
    """What an interrupted measurement has found so far.

    The scores are kept, too: no group is then measured by other scores than those before it.

    Args:
        path (str | None): of the finished file; this one has ``.unfinished`` behind its name. None:
            nothing is kept.
        data (list[str]): from :func:`.digests.data_digests`.
    """

    def __init__(self, path, data):
        self.path, self._data = path and f"{path}.unfinished", data

    def write(self, found, groups, scores):
        """Keep what is measured.

        Args:
            found (Sensitivity): with some of its groups.
            groups (list[ChannelGroup]): all that are to be measured.
            scores (list[Tensor]): (width,) of each.

        Raises:
            CheckpointError: the file cannot be written.
        """
        if self.path:
            known = {group.root: score.tolist() for group, score in zip(groups, scores)}
            values = _FORMAT | {"data": self._data, "scores": known} | asdict(found)
            save_json(values, self.path)

    def read(self, wanted, groups):
        """Go on from what is kept, if it is of the same measurement; the log says if it is not.

        Args:
            wanted (Sensitivity): the measurement; its loss and groups do not matter.
            groups (list[ChannelGroup]): all that are to be measured.

        Returns:
            tuple[Sensitivity, list[Tensor]] | None: with some of its groups, and the scores of all;
            None: begin anew.
        """
        from detectron2.utils.file_io import PathManager

        if not self.path or not PathManager.isfile(self.path):
            return None
        try:
            with PathManager.open(self.path, "r") as file:
                values = json.load(file)
            found, scores = self._checked(values, wanted, groups)
        except Exception as error:  # each PathManager handler raises other errors
            _log.warning("%r is not used (%s): measuring anew", self.path, first_line(error))
            return None
        _log.info(
            "going on behind %d of %d groups of %r", len(found.groups), len(groups), self.path
        )
        return found, scores

    def _checked(self, values, wanted, groups):
        if {key: values.pop(key) for key in _FORMAT} != _FORMAT:
            raise ValueError("another version")
        data, known = values.pop("data"), values.pop("scores")
        curves = {root: GroupSensitivity(**each) for root, each in values.pop("groups").items()}
        found = Sensitivity(**values, groups=curves)
        fields = ("weights", "importance", "ratios", "images")
        others = [name for name in fields if getattr(found, name) != getattr(wanted, name)]
        if data != self._data and "images" not in others:
            others.append("images")
        if others:
            raise ValueError(f"of other {', '.join(others)}")
        check_values(found)
        widths = {group.root: group.width for group in groups}
        scores = [torch.tensor(known[root], dtype=torch.float64) for root in widths]
        if [tuple(score.shape) for score in scores] != [(width,) for width in widths.values()]:
            raise ValueError("of other groups")
        if not all(math.isfinite(score.sum()) for score in scores):
            raise ValueError("its scores are not finite")
        if any(widths.get(root) != curve.width for root, curve in curves.items()):
            raise ValueError("of other groups")
        return found, scores

    def remove(self):
        """Forget it: the finished file is there."""
        from detectron2.utils.file_io import PathManager

        if self.path and PathManager.isfile(self.path):
            PathManager.rm(self.path)
