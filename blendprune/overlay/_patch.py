"""The one mechanism by which upstream is changed at run time, and changed back.

A :class:`Patch` names an upstream module and a function that edits it through :class:`Edits`; no
other file sets an attribute on upstream. Every edit records how to undo it, exactly: what was
inherited is deleted again, what was replaced comes back by identity.
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
    """Digest the source of ``watches`` in ``module``; comments, layout and docstrings do not count.

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
    """Changes made to upstream, each with its undoing."""

    def __init__(self):
        self._undo = []

    def set(self, owner, name, value):
        """Set ``owner.name``, as a class body or module would."""
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)
        if before is _ABSENT:
            self.on_undo(lambda: delattr(owner, name))
        else:
            self.on_undo(lambda: setattr(owner, name, before))

    def wrap(self, owner, name, wrapper):
        """Wrap the method ``owner.name`` by ``wrapper(wrapped, instance, args, kwargs)``."""
        before = inspect.getattr_static(owner, name)
        self.set(owner, name, wrapt.FunctionWrapper(before, wrapper))

    def wrap_function(self, module, name, wrapper):
        """Wrap a function everywhere: in its module and wherever it was imported by name."""
        before = getattr(module, name)
        # A reference that no module holds cannot be found again; undone, it must do nothing more.
        self.rebind(before, wrapt.FunctionWrapper(before, wrapper, enabled=self.__bool__))

    def rebind(self, before, after):
        """Put ``after`` in the place of ``before`` in every module that holds it by name."""
        _rebind(before, after)
        self.on_undo(lambda: _rebind(after, before))

    def additions(self, mapping, add, *args):
        """Call ``add(*args)``; on undo, keys it added to ``mapping`` (nested dicts) go again."""
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
        """Undo everything, last edit first."""
        while self._undo:
            self._undo.pop()()


@dataclass
class Patch:
    """One change of one upstream module.

    Attributes:
        name (str): what the change is called in patches/ and in ``status()``.
        module (str): dotted name of the upstream module that is edited.
        watches (tuple[str]): names in it that change, or whose source the change relies on.
        digests (tuple[str]): the digests of that source it is known to fit; empty: not checked.
        install (callable): ``install(module, edits)``.
        when (callable): whether the patch has a place in this environment.
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
            f"{self.target} is not the source that the patch {self.name!r} was written against "
            f"({self.detail}): install a release named in the README, or accept the difference "
            'with blendprune.apply(on_drift="warn").'
        )
        if on_drift == "raise":
            raise UpstreamDrift(message)
        warnings.warn(message, stacklevel=2)

    def apply(self, module):
        """Edit ``module``; an edit that fails leaves nothing behind."""
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
    """Yield the path of every key in nested dicts, a dict's own before those in it."""
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
