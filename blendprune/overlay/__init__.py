"""The patch set: :func:`apply` changes upstream at run time, :func:`revert` undoes it.

One file per upstream target. ``patches/`` contains the same changes as text.
"""

import contextlib
import importlib
import importlib.metadata
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import wrapt

from ..errors import ConfigError
from . import (
    adelaidet,
    basic_block,
    blendmask,
    build_model,
    checkpointer,
    config_file,
    deform_conv,
    fcos,
    functional_call,
    launch,
    meinst,
    optimizer,
    train_loader,
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
        config_file,
        adelaidet,
        deform_conv,
        basic_block,
        functional_call,
        build_model,
        checkpointer,
        fcos,
        blendmask,
        meinst,
        launch,
        trainer,
        train_loader,
        optimizer,
    )
    for patch in file.PATCHES
]

_lock = threading.RLock()
_hooked: set[str] = set()
_on_drift = None  # None while not applied


@dataclass(frozen=True)
class PatchStatus:
    """One line of :func:`status`.

    Attributes:
        name (str): the patch's name.
        target (str): dotted path of what it changes.
        upstream (str): the upstream package and its version.
        state (str): ``"applied"``; ``"overridden"`` (applied, but others have patched the same name
            or key since); ``"pending"`` (its module is not imported yet, or :func:`apply` was not
            called); ``"drifted"`` (upstream differs from what the patch expects, and
            ``on_drift`` is ``"warn"``); or ``"missing"`` (upstream is not installed).
        detail (str): the digests, if drifted, and the patches of others, each with file and line:
            what they put in the place of ours or on top of it (``is``), and what they had put there
            before (``extends``).
    """

    name: str
    target: str
    upstream: str
    state: str
    detail: str = ""


def apply(on_drift: Literal["raise", "warn"] = "raise") -> None:
    """Apply the patch set; a second call changes nothing.

    Modules that are already imported are patched now, all or none of them. The others are patched
    when they are imported; if one of them drifts, its import raises, and the rest stays as it is.
    Names imported earlier (``from … import BasicBlock``) are patched, too.

    Args:
        on_drift (str): what to do if upstream's source differs from what a patch expects:
            ``"raise"``, or ``"warn"`` and apply the patch anyway.

    Raises:
        ConfigError: ``on_drift`` is neither.
        UpstreamDrift: a source differs, or others patched a function that the overlay replaces,
            and ``on_drift`` is ``"raise"``. Nothing is changed.
    """
    global _on_drift
    if on_drift not in ("raise", "warn"):
        raise ConfigError(f'on_drift is {on_drift!r}: pass "raise" or "warn".')
    targets = dict.fromkeys(name for p in PATCHES for name in (p.module, *p.after) if name)
    for name in targets:
        if _is_partial(name):  # another thread imports it: wait; its errors are that thread's
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    with _lock:
        if _on_drift is not None:
            return
        _on_drift = on_drift
        try:
            _patch_loaded(PATCHES)
        except BaseException:
            _on_drift = None
            raise
        for name in targets:
            # wrapt calls the hook at once if a module is there, even if only partly.
            if name not in _hooked and not _is_partial(name):
                _hooked.add(name)
                wrapt.register_post_import_hook(_on_import, name)


def revert() -> None:
    """Undo :func:`apply` exactly; a second call changes nothing.

    Models that were built under the overlay keep working, also while other threads use them.
    Patches that others put on top of the overlay's stay; the overlay's pass calls through.
    """
    global _on_drift
    with _lock:
        if _on_drift is None:
            return
        _on_drift = None
        for patch in reversed(PATCHES):
            patch.revert()


@contextlib.contextmanager
def applied(on_drift: Literal["raise", "warn"] = "raise") -> Iterator[None]:
    """Apply the patch set inside a ``with`` block, unless it is already applied."""
    before = _on_drift
    apply(on_drift)
    try:
        yield
    finally:
        if before is None:
            revert()


def status() -> list[PatchStatus]:
    """Report the state of each patch, without importing or changing anything.

    Returns:
        list[PatchStatus]: in order of application.
    """
    return [
        PatchStatus(
            patch.name,
            patch.target or "adet._C",
            *_upstream(patch),
        )
        for patch in PATCHES
        if patch.when()
    ]


def drift_policy():
    """Return the current ``on_drift``, or None if the patch set is not applied."""
    return _on_drift


def import_targets():
    """Import every module that a patch targets, so that no patch stays pending.

    All but torch's need detectron2. Without it, nothing is imported.
    """
    if not importable("detectron2"):
        return
    for patch in PATCHES:
        if patch.when() and patch.module:
            importlib.import_module(patch.module)


def _on_import(module):
    name = module.__name__
    with _lock:
        if _on_drift is None:
            return
        try:
            _patch_loaded([p for p in PATCHES if name == p.module or name in p.after], name)
        except BaseException:
            # The import fails, and Python drops the module. The next import calls the hook again
            # if it is registered while the module is not there.
            sys.modules.pop(name, None)
            wrapt.register_post_import_hook(_on_import, name)
            raise


def _patch_loaded(patches, just_imported=""):
    """Apply the patches whose modules are loaded, all or none of them."""
    ready = []
    for patch in patches:
        partial = [name for name in (patch.module, *patch.after) if _is_partial(name)]
        loaded = not patch.module or patch.module in sys.modules
        if loaded and not {*partial} - {just_imported} and not patch.edits.is_active():
            if patch.when():
                ready.append((patch, sys.modules.get(patch.module)))
    for patch, module in ready:
        patch.check(module, _on_drift)
    try:
        for patch, module in ready:
            patch.apply(module)
    except BaseException:
        for patch, _ in reversed(ready):
            patch.revert()
        raise


def _is_partial(name):
    """Whether a module is being imported, in this thread or in another one."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return getattr(spec, "_initializing", False)


def _upstream(patch):
    package = (patch.module or "adet").partition(".")[0]
    if not importable(package):
        return f"{package}, not installed", "missing", ""
    version = getattr(sys.modules.get(package), "__version__", None) or _version(package)
    return f"{package} {version}", *patch.report()


def _version(package):
    for name in importlib.metadata.packages_distributions().get(package, ()):
        return importlib.metadata.version(name)
    return "(version unknown)"
