"""``detectron2.layers.DeformConv`` and ``ModulatedDeformConv``, if detectron2 is not compiled.

Replaced: detectron2's dummy classes, which raise when a model with deformable convs is built. The
classes of :mod:`blendprune.modeling.operators.deform_conv` replace them in their module and in
every module that imported them by name (``detectron2.layers``, the ResNet, AdelaiDet's DFConv2d and
VoVNet).

Left alone: a compiled detectron2.
"""

import sys

from ._patch import Patch

_MODULE = "detectron2.layers.deform_conv"
_DUMMIES = "detectron2.utils.develop"


def _install(module, edits):
    from ..modeling.operators import deform_conv

    pairs = []
    for name in ("DeformConv", "ModulatedDeformConv"):
        if getattr(module, name).__module__ != _DUMMIES:
            continue  # somebody's own
        # A new class, so that undo finds its references and no others.
        own = type(name, (getattr(deform_conv, name),), {"__module__": _MODULE})
        pairs.append((getattr(module, name), own))
    edits.rebind(module, pairs)


PATCHES = [
    Patch(
        name="provide-deformable-convs",
        module=_MODULE,
        watches=("DeformConv", "ModulatedDeformConv"),
        digests=(),
        install=_install,
        when=lambda: not hasattr(sys.modules.get(_MODULE), "_C"),
    )
]
