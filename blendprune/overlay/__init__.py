"""The patch set at run time: what upstream becomes between ``apply()`` and ``revert()``.

One file per upstream target; ``patches/`` holds the same changes as text.
"""

import contextlib
import importlib
import importlib.metadata
import sys
import threading
from dataclasses import dataclass

import wrapt

from ..errors import ConfigError
from . import (
    adelaidet,
    basic_block,
    blendmask,
    build_model,
    checkpointer,
    deform_conv,
    fcos,
    launch,
    meinst,
    trainer,
)
from . import (
    config_defaults as config,
)
from ._patch import importable

__all__ = ["PatchStatus", "applied", "apply", "revert", "status"]

PATCHES = [
    patch
    for file in (
        config,
        adelaidet,
        deform_conv,
        basic_block,
        build_model,
        checkpointer,
        fcos,
        blendmask,
        meinst,
        launch,
        trainer,
    )
    for patch in file.PATCHES
]

_lock = threading.RLock()
_hooked = set()
_on_drift = None  # None while not applied


@dataclass(frozen=True)
class PatchStatus:
    """One line of :func:`status`.

    Attributes:
        name (str): what the patch is called.
        target (str): dotted path of what it changes.
        upstream (str): the upstream package and its version.
        state (str): ``"applied"``, ``"pending"`` (its module is not imported yet, or nothing was
            applied), ``"drifted"`` (applied to a source it was not written against) or
            ``"missing"`` (upstream is not installed).
        detail (str): the digests, when drifted.
    """

    name: str
    target: str
    upstream: str
    state: str
    detail: str = ""


def apply(on_drift="raise"):
    """Apply the patch set; a second call changes nothing.

    Modules that are imported already are changed at once, all or none of them; the others when they
    are imported. Names that were imported from them earlier (``from … import BasicBlock``) are
    reached, too.

    Args:
        on_drift (str): ``"raise"`` or ``"warn"``, when upstream's source is not the one a patch was
            written against. ``"warn"`` applies the patch all the same.

    Raises:
        UpstreamDrift: see ``on_drift``; nothing is changed.
    """
    global _on_drift
    if on_drift not in ("raise", "warn"):
        raise ConfigError(f'on_drift is {on_drift!r}: pass "raise" or "warn".')
    with _lock:
        if _on_drift is not None:
            return
        present = [patch for patch in PATCHES if patch.when()]
        loaded = [(p, sys.modules.get(p.module)) for p in present if _is_loaded(p.module)]
        for patch, module in loaded:
            patch.check(module, on_drift)
        _on_drift = on_drift
        try:
            for patch, module in loaded:
                patch.apply(module)
            for name in dict.fromkeys(p.module for p in PATCHES if p.module):
                if name not in _hooked:
                    _hooked.add(name)
                    wrapt.register_post_import_hook(_on_import, name)
        except BaseException:
            revert()
            raise


def revert():
    """Undo :func:`apply` exactly; a second call changes nothing."""
    global _on_drift
    with _lock:
        if _on_drift is None:
            return
        _on_drift = None
        for patch in reversed(PATCHES):
            patch.revert()


@contextlib.contextmanager
def applied(on_drift="raise"):
    """Apply the patch set for the length of a ``with`` block, unless it is applied already."""
    before = _on_drift
    apply(on_drift)
    try:
        yield
    finally:
        if before is None:
            revert()


def status():
    """Say how it stands with each patch, without importing or changing anything.

    Returns:
        list[PatchStatus]: in the order of application.
    """
    return [
        PatchStatus(
            patch.name,
            patch.target or "adet._C",
            *_upstream(patch),
            detail=patch.detail,
        )
        for patch in PATCHES
        if patch.when()
    ]


def drift_policy():
    """Return the ``on_drift`` that is in force, or None while nothing is applied."""
    return _on_drift


def import_targets():
    """Import every module that a patch is for, so that nothing stays pending."""
    for patch in PATCHES:
        if patch.when() and patch.module:
            importlib.import_module(patch.module)


def _on_import(module):
    with _lock:
        if _on_drift is None:
            return
        try:
            for patch in PATCHES:
                if patch.module == module.__name__ and not patch.edits and patch.when():
                    patch.check(module, _on_drift)
                    patch.apply(module)
        except BaseException:
            revert()
            raise


def _is_loaded(name):
    if not name:
        return True
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def _upstream(patch):
    package = (patch.module or "adet").partition(".")[0]
    if not importable(package):
        return f"{package}, not installed", "missing"
    version = getattr(sys.modules.get(package), "__version__", None) or _version(package)
    return f"{package} {version}", patch.state


def _version(package):
    for name in importlib.metadata.packages_distributions().get(package, ()):
        return importlib.metadata.version(name)
    return "(version unknown)"
