"""``detectron2.engine.DefaultTrainer``: training hooks that the ``PRUNER`` node enables.

Extended: ``build_hooks``. The enabled hooks come first, so PeriodicCheckpointer saves a model after
it is pruned. By default none is enabled, and the list is upstream's; a fine-tuning has
:class:`blendprune.training.KeepBest`. It reaches every subclass that
calls ``build_hooks``, such as AdelaiDet's trainer.

Why here: an unmodified script passes hooks nowhere else.
"""

from ._patch import Patch


def build_hooks(wrapped, instance, args, kwargs):
    """Build the hooks of the config, then upstream's."""
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
