"""AdelaiDet, as it is found: present but not compiled, or absent.

Present: ``adet._C`` no longer compiles on a current PyTorch, and AdelaiDet imports it while it is
itself imported. A finder at the end of ``sys.meta_path`` offers a placeholder; a compiled extension
is found first and wins. Absent: our own BlendMask is registered under the same names as soon as
detectron2's registries exist.
"""

import importlib.abc
import importlib.machinery
import sys
import types

from ..errors import OperatorUnavailable
from ._patch import Patch, importable

_EXTENSION = "adet._C"


class _Placeholder(types.ModuleType):
    """Stands for ``adet._C``; any operator can be looked up, none can be called."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*args, **kwargs):
            raise OperatorUnavailable(
                f"adet._C.{name} is not compiled: AdelaiDet's extension does not build on this "
                "PyTorch; use a model that does not need it, or an older PyTorch and AdelaiDet's "
                "setup.py build develop."
            )

        return operator


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name == _EXTENSION:
            return importlib.machinery.ModuleSpec(name, self, origin="blendprune placeholder")
        return None

    def create_module(self, spec):
        return _Placeholder(spec.name)

    def exec_module(self, module):
        pass


def _offer_placeholder(module, edits):
    finder = _Finder()
    sys.meta_path.append(finder)
    edits.on_undo(lambda: sys.meta_path.remove(finder))


def _register_own(module, edits):
    from detectron2.config.defaults import _C

    from .. import modeling

    registries = {
        name: registry._obj_map
        for name, registry in (
            ("meta_arch", module.META_ARCH_REGISTRY),
            ("backbone", module.BACKBONE_REGISTRY),
            ("proposal_generator", module.PROPOSAL_GENERATOR_REGISTRY),
        )
    }
    registries["config"] = _C
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
        name="register-own-blendmask",
        module="detectron2.modeling",
        watches=(),
        digests=(),
        install=_register_own,
        when=lambda: not importable("adet"),
    ),
]
