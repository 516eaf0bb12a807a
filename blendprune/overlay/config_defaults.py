"""``detectron2.config.defaults._C``: the keys of :func:`blendprune.config.add_prune_config`.

AdelaiDet's defaults are the same node, so every ``get_cfg()`` has the keys. Configs that were
cloned earlier are not changed; call ``add_prune_config(cfg)`` on those. Without AdelaiDet, the keys
of this package's BlendMask are added, too: its config merges whatever was imported before.
"""

from ..config import add_prune_config
from ..config.defaults import DEFAULTS_LOCK
from ._patch import Patch, importable


def _install(module, edits):
    edits.additions(module._C, add_prune_config, module._C, lock=DEFAULTS_LOCK)
    if not importable("adet"):
        from ..modeling.blendmask_config import add_blendmask_config

        edits.additions(module._C, add_blendmask_config, module._C, lock=DEFAULTS_LOCK)


PATCHES = [
    Patch(
        name="add-prune-config",
        module="detectron2.config.defaults",
        watches=(),
        digests=(),
        install=_install,
    )
]
