"""``detectron2.config.CfgNode.merge_from_file``: the config of a folder that was moved.

Extended: after the merge, :func:`blendprune.config.find_moved` looks for the pruned file beside the
config. It reaches every script that reads the config, and the command line.

Why here: ``blendprune prune`` writes absolute paths, because scripts run anywhere. Left alone:
configs without ``MODEL.FINETUNE``, and those whose file is where they say.
"""

from ..config import find_moved
from ._patch import Patch


def merge_from_file(wrapped, instance, args, kwargs):
    """Merge the file, then find what moved along with it."""
    result = wrapped(*args, **kwargs)
    find_moved(instance, args[0] if args else kwargs["cfg_filename"])
    return result


def _install(module, edits):
    edits.wrap(module.CfgNode, "merge_from_file", merge_from_file)


PATCHES = [
    Patch(
        name="find-moved-weights",
        module="detectron2.config.config",
        watches=("CfgNode.merge_from_file",),
        digests=(),
        install=_install,
    )
]
