"""``detectron2.config.defaults._C``: the keys of :func:`blendprune.config.add_prune_config`.

AdelaiDet's defaults are the same node, so every ``get_cfg()`` has the keys. Configs that were
cloned earlier are not changed; call ``add_prune_config(cfg)`` on those.
"""

from ..config import add_prune_config
from ._patch import Patch


def _install(module, edits):
    edits.additions(module._C, add_prune_config, module._C)


PATCHES = [
    Patch(
        name="add-prune-config",
        module="detectron2.config.defaults",
        watches=(),
        digests=(),
        install=_install,
    )
]
