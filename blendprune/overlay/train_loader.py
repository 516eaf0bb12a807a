"""``detectron2.data.build_detection_train_loader``: the loader of a script that prunes.

Extended: the function, in its module and in every module that imported it by name. If the config
asks for pruning in the script, or for training hooks, the loader is remembered.

Why here: a training loop without ``DefaultTrainer`` passes its loader nowhere else. Left alone: all
other scripts.
"""

from ..config import asks_the_loop
from ..first_forward import record_loader
from ._patch import Patch


def build_detection_train_loader(wrapped, instance, args, kwargs):
    """Build the loader and remember it."""
    loader = wrapped(*args, **kwargs)
    # The first argument may be a data set instead of a config.
    record_loader(loader, wanted=asks_the_loop(args[0] if args else kwargs.get("cfg")))
    return loader


def _install(module, edits):
    edits.wrap_function(module, "build_detection_train_loader", build_detection_train_loader)


PATCHES = [
    Patch(
        name="record-train-loader",
        module="detectron2.data.build",
        watches=("build_detection_train_loader",),
        digests=(),
        install=_install,
    )
]
