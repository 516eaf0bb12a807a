"""``detectron2.solver.build_optimizer``: the optimizer of a script that asks for training hooks.

Extended: the function, in its module and in every module that imported it by name. If the model's
config asks for training hooks, its optimizer is remembered.

Why here: a training loop without ``DefaultTrainer`` passes its optimizer nowhere else. Left alone:
all other scripts.
"""

from ..first_forward import record_optimizer
from ._patch import Patch


def build_optimizer(wrapped, instance, args, kwargs):
    """Build the optimizer and remember it."""
    optimizer = wrapped(*args, **kwargs)
    record_optimizer(args[1] if len(args) > 1 else kwargs["model"], optimizer)
    return optimizer


def _install(module, edits):
    edits.wrap_function(module, "build_optimizer", build_optimizer)


PATCHES = [
    Patch(
        name="record-optimizer",
        module="detectron2.solver.build",
        watches=("build_optimizer",),
        digests=(),
        install=_install,
    )
]
