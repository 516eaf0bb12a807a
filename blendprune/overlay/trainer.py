"""``detectron2.engine.DefaultTrainer``: the training hooks that the ``PRUNER`` node switches on.

Extended: ``build_hooks``, whose list gets them in front: what PeriodicCheckpointer saves after an
iteration is then what that iteration has cut. It reaches every subclass that calls it, as
AdelaiDet's trainer does. Why here: it is the one place where a script that nobody edits hands over
hooks. With none switched on, which is the default, the list is upstream's.
"""

from ._patch import Patch


def build_hooks(wrapped, instance, args, kwargs):
    """Build upstream's hooks, behind those of the config."""
    from ..training import hooks_from_config

    return [*hooks_from_config(instance.cfg), *wrapped(*args, **kwargs)]


def _install(module, edits):
    edits.wrap(module.DefaultTrainer, "build_hooks", build_hooks)


PATCHES = [
    Patch(
        name="add-training-hooks",
        module="detectron2.engine.defaults",
        watches=("DefaultTrainer.build_hooks",),
        digests=("913fda39d911b661",),
        install=_install,
    )
]
