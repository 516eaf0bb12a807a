"""AdelaiDet that is not compiled, or not installed.

If it is installed, two things are added. AdelaiDet imports its extension during its own import, so
a placeholder replaces an extension that is not compiled
(:mod:`blendprune.modeling.operators.extension`). ``Beziers`` gets a ``__len__``, which
detectron2's poolers call since 0.6; BAText needs it.

If it is not installed, this package's BlendMask is registered under the same names when
``detectron2.modeling`` is imported.
"""

import contextlib

from ..modeling.operators.extension import standing_in
from ._patch import Patch, importable


def _offer_placeholder(module, edits):
    stack = contextlib.ExitStack()
    stack.enter_context(standing_in())
    edits.on_undo(stack.close)


def _length(beziers):
    return beziers.tensor.shape[0]


def _count_beziers(module, edits):
    if not hasattr(module.Beziers, "__len__"):
        edits.set(module.Beziers, "__len__", _length)


def _register_own(module, edits):
    from .. import modeling

    registries = {
        name: registry._obj_map
        for name, registry in (
            ("meta_arch", module.META_ARCH_REGISTRY),
            ("backbone", module.BACKBONE_REGISTRY),
            ("proposal_generator", module.PROPOSAL_GENERATOR_REGISTRY),
        )
    }
    edits.additions(registries, modeling.register)


PATCHES = [
    Patch(
        name="stand-in-for-adet-extension",
        module="",
        watches=(),
        digests=(),
        install=_offer_placeholder,
        when=lambda: importable("adet"),
    ),
    Patch(
        name="count-beziers",
        module="adet.structures.beziers",
        watches=("Beziers",),
        digests=("ee5f528e09864e84",),
        install=_count_beziers,
        when=lambda: importable("adet"),
    ),
    Patch(
        name="register-own-blendmask",
        module="detectron2.modeling",
        watches=(),
        digests=(),
        install=_register_own,
        when=lambda: not importable("adet"),
        # Each of these imports detectron2.modeling.
        after=tuple(
            f"blendprune.modeling.{name}"
            for name in ("backbone", "basis_module", "blender", "blendmask", "fcos")
        ),
    ),
]
