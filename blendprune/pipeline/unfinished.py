"""What an interrupted prune leaves in its output folder, for the same command to go on from."""

import os

from ..checkpoint import read_checkpoint
from ..errors import first_line
from ..files import save_atomically
from ..progress import stage
from .pruned_folder import read_report

#: In the output folder, while a prune runs and after one that was interrupted.
NAME = "unfinished.pth"


class UnfinishedPrune:
    """The state of a prune after its last round, and the levels that are written.

    Only the process that writes the files calls it.

    Args:
        cfg (CfgNode): of the prune; one with any other key does not go on from it.
        output_dir (str): the folder.

    Attributes:
        state (dict | None): what ``blendprune.prune`` takes as ``resume``.
        levels (dict[str, str]): name of the folder of each level that is written → the
            ``checkpoint_id`` of its files.
        reports (dict[str, dict]): those of the levels that are kept, by name of the folder.
    """

    def __init__(self, cfg, output_dir):
        self._path, self._config = os.path.join(output_dir, NAME), cfg.dump()
        self._names = {f"{level:g}" for level in cfg.PRUNER.LEVELS}
        self.state, self.levels, self.reports = None, {}, {}

    def read(self):
        """Take over what is there, if it is of this config and all its levels are whole."""
        if not os.path.isfile(self._path):
            return
        folder = os.path.dirname(self._path)
        try:
            found = read_checkpoint(self._path)
            if found["config"] != self._config:
                raise ValueError("of another config")
            state, levels = found["state"], found["levels"]
            done = [f"rounds done: {len(state['removed'])}"]
            if "scoring" in state:
                done.append(f"images scored for the next: {state['scoring']['images']}")
            if levels:
                done.append(f"levels written: {', '.join(levels)}")
            reports = {
                name: read_report(os.path.join(folder, name), own)
                for name, own in levels.items()
                if name in self._names
            }
        except Exception as error:  # of files that anyone may have changed: many
            stage(f"{self._path} is not used ({first_line(error)}): pruning anew")
            return
        self.state, self.levels, self.reports = state, levels, reports
        stage(f"found {self._path} of an interrupted prune ({'; '.join(done)})")

    def add_round(self, state):
        """Keep what the prune goes on from if it is interrupted now, in or behind a round.

        Args:
            state (dict): from ``on_round`` of ``blendprune.prune``.
        """
        if self.state is not None and state["identity"] != self.state.get("identity"):
            # The prune has begun anew: on other images, for example.
            self.levels, self.reports = {}, {}
        self.state = state
        self._write()

    def add_level(self, name, own):
        """Keep that the files of a level are written.

        Args:
            name (str): of its folder.
            own (str): from :func:`.pruned_folder.write_folder`.
        """
        self.levels[name] = own
        if self.state is not None:  # of a latency there is none
            self._write()

    def remove(self):
        """Forget it: the prune is done."""
        if os.path.exists(self._path):
            os.remove(self._path)

    def _write(self):
        values = {"config": self._config, "levels": self.levels, "state": self.state}
        save_atomically(values, self._path)
