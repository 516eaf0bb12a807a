"""A placeholder for ``adet._C``, AdelaiDet's extension, which current PyTorch cannot compile.

AdelaiDet imports ``adet._C`` during its own import. Its configs use only one of the operators,
BezierAlign (BAText), which :mod:`blendprune.modeling.operators.bezier_align` provides. All other
operators raise when they are called. The finder is the last in ``sys.meta_path``, so a compiled
extension takes precedence.
"""

import contextlib
import importlib.abc
import importlib.machinery
import sys
import types

from ...errors import OperatorUnavailable

_EXTENSION = "adet._C"


class _Placeholder(types.ModuleType):
    """Replaces ``adet._C``: any operator can be looked up, only BezierAlign can be called."""

    @staticmethod
    def bezier_align_forward(features, rois, scale, height, width, sampling_ratio, aligned):
        from .bezier_align import bezier_align

        return bezier_align(features, rois, (height, width), scale, sampling_ratio, aligned)

    @staticmethod
    def bezier_align_backward(grad, rois, scale, height, width, *rest):
        from .bezier_align import bezier_align_backward

        *shape, sampling_ratio, aligned = rest
        size = (height, width)
        return bezier_align_backward(grad, rois, size, scale, shape, sampling_ratio, aligned)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*args, **kwargs):
            raise OperatorUnavailable(
                f"adet._C.{name} is not compiled: AdelaiDet's extension does not build on this "
                "PyTorch. Use a model that does not need it, or build AdelaiDet on an older "
                "PyTorch (python setup.py build develop)."
            )

        return operator


class PlaceholderFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the placeholder if no other finder finds the extension."""

    def find_spec(self, name, path=None, target=None):
        if name == _EXTENSION:
            return importlib.machinery.ModuleSpec(name, self, origin="blendprune placeholder")
        return None

    def create_module(self, spec):
        return _Placeholder(spec.name)

    def exec_module(self, module):
        pass


@contextlib.contextmanager
def standing_in():
    """Make the placeholder importable inside a ``with`` block."""
    finder = PlaceholderFinder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
