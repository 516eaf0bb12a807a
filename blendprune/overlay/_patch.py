"""The mechanism that changes upstream at run time and restores it.

A :class:`Patch` names an upstream module and a function that edits it through :class:`Edits`. No
other file sets an attribute on upstream. Every edit records how to undo it exactly: an attribute
that was inherited is deleted, one that was replaced is restored by identity.
"""

import ast
import hashlib
import importlib.util
import inspect
import sys
import textwrap
import warnings
from dataclasses import dataclass, field

import wrapt

from ..errors import UpstreamDrift

_ABSENT = object()


def importable(package):
    """Whether a top-level package can be imported, without importing it."""
    if package in sys.modules:
        return True
    return importlib.util.find_spec(package) is not None


def digest(module, watches):
    """Digest the source of ``watches`` in ``module``, without comments, layout and docstrings.

    Args:
        module (module): an imported upstream module.
        watches (tuple[str]): dotted names in it.

    Returns:
        str: 16 hexadecimal digits, or ``"missing NAME"``.
    """
    sha = hashlib.sha256()
    for name in watches:
        target = module
        for part in name.split("."):
            target = inspect.getattr_static(target, part, None)
        if target is None:
            return f"missing {name}"
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(target))))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
                node.body = node.body[1:] or [ast.Pass()]
        sha.update(ast.unparse(tree).encode())
    return sha.hexdigest()[:16]


class Edits:
    """Changes to upstream, each with its undo function."""

    def __init__(self):
        self._undo = []

    def set(self, owner, name, value):
        """Set the attribute ``name`` of a class or module."""
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)
        if before is _ABSENT:
            self.on_undo(lambda: delattr(owner, name))
        else:
            self.on_undo(lambda: setattr(owner, name, before))

    def wrap(self, owner, name, wrapper):
        """Wrap the method ``owner.name`` in ``wrapper(wrapped, instance, args, kwargs)``."""
        before = inspect.getattr_static(owner, name)
        self.set(owner, name, wrapt.FunctionWrapper(before, wrapper))

    def wrap_function(self, module, name, wrapper):
        """Wrap a function in its module and in every module that imported it by name."""
        before = getattr(module, name)
        # References outside modules cannot be restored, so the wrapper is disabled on undo.
        self.rebind(before, wrapt.FunctionWrapper(before, wrapper, enabled=self.__bool__))

    def rebind(self, before, after):
        """Replace ``before`` by ``after`` in every module that has it as a global name."""
        _rebind(before, after)
        self.on_undo(lambda: _rebind(after, before))

    def additions(self, mapping, add, *args):
        """Call ``add(*args)``; undo removes the keys it added to ``mapping`` (nested dicts)."""
        before = set(_paths(mapping))
        add(*args)
        added = [path for path in _paths(mapping) if path not in before]
        self.on_undo(lambda: _remove(mapping, added))

    def __bool__(self):
        return bool(self._undo)

    def on_undo(self, function):
        """Call ``function()`` when the edits are undone."""
        self._undo.append(function)

    def undo(self):
        """Undo all edits, the last one first."""
        while self._undo:
            self._undo.pop()()


@dataclass
class Patch:
    """One change of one upstream module.

    Attributes:
        name (str): the change's name in patches/ and in ``status()``.
        module (str): dotted name of the upstream module to edit.
        watches (tuple[str]): names in it that change, or whose source the change relies on.
        digests (tuple[str]): accepted digests of that source. Empty: not checked.
        install (callable): ``install(module, edits)``.
        when (callable): whether this environment needs the patch.
    """

    name: str
    module: str
    watches: tuple
    digests: tuple
    install: callable
    when: callable = lambda: True
    edits: Edits = field(default_factory=Edits, repr=False)
    state: str = "pending"
    detail: str = ""

    @property
    def target(self):
        """What is changed, as ``module: Name, Name``."""
        return f"{self.module}: {', '.join(self.watches)}" if self.watches else self.module

    def check(self, module, on_drift):
        """Compare upstream's source with the digests.

        Raises:
            UpstreamDrift: it differs, and ``on_drift`` is ``"raise"``.
        """
        self.state, self.detail = "pending", ""
        if not self.digests:
            return
        found = digest(module, self.watches)
        if found in self.digests:
            return
        self.state = "drifted"
        self.detail = f"expected {' or '.join(self.digests)}, found {found}"
        message = (
            f"{self.target} differs from the source that patch {self.name!r} was written against "
            f"({self.detail}): install a release named in the README, or accept the difference "
            'with blendprune.apply(on_drift="warn").'
        )
        if on_drift == "raise":
            raise UpstreamDrift(message)
        warnings.warn(message, stacklevel=2)

    def apply(self, module):
        """Edit ``module``; if an edit fails, undo all of them."""
        try:
            self.install(module, self.edits)
        except BaseException:
            self.edits.undo()
            raise
        if self.state == "pending":
            self.state = "applied"

    def revert(self):
        """Undo the edits."""
        self.edits.undo()
        self.state, self.detail = "pending", ""


def _rebind(old, new):
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if isinstance(names, dict):
            for name in [name for name, value in list(names.items()) if value is old]:
                names[name] = new


def _paths(mapping, prefix=()):
    """Yield the path of every key in nested dicts, parents before children."""
    for key, value in mapping.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from _paths(value, (*prefix, key))


def _remove(mapping, paths):
    for *parents, key in paths:
        node = mapping
        for parent in parents:
            node = node.get(parent, {})
        node.pop(key, None)
