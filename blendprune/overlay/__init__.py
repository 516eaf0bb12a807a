"""The patch set: :func:`apply` changes upstream at run time, :func:`revert` undoes it.

One file per upstream target. ``patches/`` contains the same changes as text.
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
        name (str): the patch's name.
        target (str): dotted path of what it changes.
        upstream (str): the upstream package and its version.
        state (str): ``"applied"``, ``"pending"`` (its module is not imported yet, or
            :func:`apply` was not called), ``"drifted"`` (applied to a source that differs from the
            expected one) or ``"missing"`` (upstream is not installed).
        detail (str): the digests, if drifted.
    """

    name: str
    target: str
    upstream: str
    state: str
    detail: str = ""


def apply(on_drift="raise"):
    """Apply the patch set; a second call changes nothing.

    Modules that are already imported are patched now, all or none of them. The others are patched
    when they are imported. Names imported earlier (``from … import BasicBlock``) are patched, too.

    Args:
        on_drift (str): what to do if upstream's source differs from what a patch expects:
            ``"raise"``, or ``"warn"`` and apply the patch anyway.

    Raises:
        ConfigError: ``on_drift`` is neither.
        UpstreamDrift: a source differs, and ``on_drift`` is ``"raise"``. Nothing is changed.
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
    """Apply the patch set inside a ``with`` block, unless it is already applied."""
    before = _on_drift
    apply(on_drift)
    try:
        yield
    finally:
        if before is None:
            revert()


def status():
    """Report the state of each patch, without importing or changing anything.

    Returns:
        list[PatchStatus]: in order of application.
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
    """Return the current ``on_drift``, or None if the patch set is not applied."""
    return _on_drift


def import_targets():
    """Import every module that a patch targets, so that no patch stays pending."""
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
