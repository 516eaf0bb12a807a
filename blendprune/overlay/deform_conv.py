"""``detectron2.layers.DeformConv`` and ``ModulatedDeformConv``, where detectron2 is not compiled.

Replaced: the dummies that detectron2 puts there instead, which raise when a model with deformable
convs is built; in their module and wherever they were imported by name (``detectron2.layers``,
the ResNet, AdelaiDet's DFConv2d and VoVNet). By :mod:`blendprune.modeling.operators.deform_conv`.

A compiled detectron2 is left alone.
"""

import sys

from ._patch import Patch

_MODULE = "detectron2.layers.deform_conv"


def _install(module, edits):
    from ..modeling.operators import deform_conv

    for name in ("DeformConv", "ModulatedDeformConv"):
        # A class of upstream's name, so that undoing finds every reference to it and no other.
        own = type(name, (getattr(deform_conv, name),), {"__module__": _MODULE})
        edits.rebind(getattr(module, name), own)


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
