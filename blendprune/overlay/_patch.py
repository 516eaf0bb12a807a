"""The mechanism that changes upstream at run time and restores it.

A :class:`Patch` names an upstream module and a function that edits it through :class:`Edits`. No
other file sets an attribute on upstream. Every edit records how to undo it exactly: an attribute
that was inherited is deleted, one that was replaced is restored by identity.
"""

import contextlib
import importlib.util
import inspect
import sys
import threading
import types
import warnings
from dataclasses import dataclass, field

from ..errors import UpstreamDrift, error_line
from ._keys import Keys
from ._provenance import (
    Wrapper,
    describe,
    digest,
    foreign,
    foreign_at,
    globals_above,
    mark_as_ours,
    versions,
)

_ABSENT = object()


def importable(package):
    """Whether a top-level package can be imported, without importing it."""
    if package in sys.modules:
        return True
    return importlib.util.find_spec(package) is not None


class Edits:
    """Changes to upstream, each with its undo function.

    Others may patch the same names, before or after. What is below ours keeps working. What is on
    top of ours stays when the edits are undone, and ours passes every call through from then on.
    """

    def __init__(self):
        self._undo = []
        self._places = []
        self._keys = []
        self._active = False
        self._lock = threading.RLock()

    def set(self, owner, name, value):
        """Set the attribute ``name`` of a class or module."""
        theirs = "" if isinstance(owner, types.ModuleType) else foreign(owner, name)
        place = _Place(owner, name, mark_as_ours(value), _current(owner, name), theirs)
        setattr(owner, name, value)
        self._places.append(place)
        self.on_undo(place.restore)

    def replace(self, owner, name, function):
        """Set a function in place of upstream's; one that others put there stays."""
        if not foreign(owner, name):
            self.set(owner, name, function)

    def wrap(self, owner, name, wrapper):
        """Wrap the method ``owner.name`` in ``wrapper(wrapped, instance, args, kwargs)``."""
        self.set(owner, name, self._wrapped(inspect.getattr_static(owner, name), wrapper))

    def wrap_function(self, module, name, wrapper):
        """Wrap a function in its module and in every module that imported it by name.

        What others put around it or in its place, in any of these modules, is wrapped in turn.
        """
        for before in versions(module, name, globals_above(module)):
            theirs = foreign(module, name, before)
            self.rebind(module, [(before, self._wrapped(before, wrapper))], theirs)

    def rebind(self, module, pairs, theirs=""):
        """Replace values of ``module`` in every module that has them as globals.

        Args:
            module (module): of upstream.
            pairs (list[tuple]): values before and after.
            theirs (str): who had patched them before, as :meth:`below` describes it.
        """
        for _, after in pairs:
            mark_as_ours(after)
        for owner, name, before, after in _replace(module, pairs):
            self._places.append(_Place(owner, name, after, before, theirs))
        backwards = [pair[::-1] for pair in pairs]
        self.on_undo(lambda: _replace(module, backwards))

    def additions(self, mapping, add, *args, lock=None):
        """Call ``add(*args)``; undo removes the keys it added to ``mapping`` (nested dicts).

        The ``lock`` is held meanwhile.

        Keys that others added below ours stay, and so do keys of ours whose value they changed.
        """
        lock = lock or contextlib.nullcontext()
        with lock:
            keys = Keys(mapping)
            add(*args)
            keys.note_additions()
        self._keys.append(keys)

        def undo():
            with lock:
                keys.remove()

        self.on_undo(undo)

    @contextlib.contextmanager
    def late(self):
        """Add edits after the installation, inside a ``with`` block.

        Yields:
            bool: whether the edits are in effect. They stay so until the block ends.
        """
        with self._lock:
            yield self._active

    def begin(self):
        """Put the edits that follow into effect."""
        self._places.clear()
        self._keys.clear()
        self._active = True

    def on_undo(self, function):
        """Call ``function()`` when the edits are undone."""
        self._undo.append(function)

    def undo(self):
        """Undo all edits, the last one first."""
        with self._lock:
            self._active = False
            while self._undo:
                self._undo.pop()()

    def is_active(self):
        """Whether the edits are in effect."""
        return self._active

    def above(self):
        """Describe what others put on top of the edits, or in their place.

        Returns:
            list[str]: one phrase per name or key.
        """
        names = [
            f"{_dotted(place.owner, place.name)} is {_who(now)}"
            for place in self._places
            if (now := _current(place.owner, place.name)) is not place.value
            and now is not place.before
        ]
        keys = [phrase for keys in self._keys if self._active for phrase in keys.changed()]
        return names + keys

    def below(self):
        """Describe what others had put in place before, which the edits extend.

        Returns:
            list[str]: one phrase per name.
        """
        return [
            f"{_dotted(place.owner, place.name)} extends {place.foreign}"
            for place in self._places
            if self._active and place.foreign
        ]

    def _wrapped(self, before, wrapper):
        # What holds a reference of its own cannot be restored; it gets a wrapper that does nothing.
        return Wrapper(before, wrapper, enabled=self.is_active)


@dataclass(frozen=True)
class _Place:
    """A name that was set, the values after and before, and who had patched it before."""

    owner: object
    name: str
    value: object
    before: object
    foreign: str

    def restore(self):
        """Put the value before back, unless others have set the name since."""
        if _current(self.owner, self.name) is not self.value:
            return
        if self.before is _ABSENT:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.before)


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
        replaces (tuple[str]): functions in the module that are replaced, not extended. A function
            that others put there would be lost, so it counts as drift.
        after (tuple[str]): modules that ``install`` imports. While one of them is only partly
            imported, the patch waits.
    """

    name: str
    module: str
    watches: tuple
    digests: tuple
    install: callable
    when: callable = lambda: True
    replaces: tuple = ()
    after: tuple = ()
    edits: Edits = field(default_factory=Edits, repr=False)
    state: str = "pending"
    detail: str = ""

    @property
    def target(self):
        """What is changed, as ``module: Name, Name``."""
        return f"{self.module}: {', '.join(self.watches)}" if self.watches else self.module

    def check(self, module, on_drift):
        """Compare upstream's source with the digests, and look for functions of others.

        Raises:
            UpstreamDrift: something differs, and ``on_drift`` is ``"raise"``.
        """
        self.state, self.detail = "pending", ""
        problem = self._foreign(module) or self._other_source(module)
        if not problem:
            return
        self.state = "drifted"
        if on_drift == "raise":
            raise UpstreamDrift(problem)
        warnings.warn(problem, stacklevel=2)

    def _foreign(self, module):
        for watch in self.replaces:
            if who := foreign_at(module, watch):
                self.detail = f"{watch} is {who}"
                return (
                    f"{self.module}.{watch} is patched by {who}, and patch {self.name!r} would "
                    "replace it: call blendprune.apply() before that patch, or keep it and do "
                    'without ours with blendprune.apply(on_drift="warn").'
                )
        return ""

    def _other_source(self, module):
        if not self.digests:
            return ""
        found = digest(module, self.watches)
        if found in self.digests:
            return ""
        self.detail = f"expected {' or '.join(self.digests)}, found {found}"
        return (
            f"{self.target} differs from the source that patch {self.name!r} was written against "
            f"({self.detail}): install a release named in the README, or accept the difference "
            'with blendprune.apply(on_drift="warn").'
        )

    def apply(self, module):
        """Edit ``module``; if an edit fails, undo all of them.

        A source that differs, which the caller accepts, may lack what is edited: it is left alone,
        with a warning.
        """
        self.edits.begin()
        try:
            self.install(module, self.edits)
        except BaseException as error:
            self.edits.undo()
            if self.state != "drifted" or not isinstance(error, (AttributeError, KeyError)):
                raise
            self.detail += "; left out"
            warnings.warn(
                f"patch {self.name!r} is left out: {self.target} lacks what it changes "
                f"({error_line(error)})",
                stacklevel=2,
            )
        if self.state == "pending":
            self.state = "applied"

    def revert(self):
        """Undo the edits."""
        self.edits.undo()
        self.state, self.detail = "pending", ""

    def report(self):
        """Return the state and a detail, both as they are now.

        Returns:
            tuple[str, str]: see :class:`blendprune.overlay.PatchStatus`.
        """
        above = self.edits.above()
        state = "overridden" if above and self.state == "applied" else self.state
        return state, "; ".join(filter(None, [self.detail, *above, *self.edits.below()]))


def _current(owner, name):
    return vars(owner).get(name, _ABSENT)


def _dotted(owner, name):
    kind = isinstance(owner, type)
    return f"{owner.__module__}.{owner.__qualname__}.{name}" if kind else f"{owner.__name__}.{name}"


def _who(value):
    return "deleted" if value is _ABSENT else describe(value)


def _replace(module, pairs):
    """Replace values of a module in all globals; list module, name, old and new of each place.

    Another thread may import one of the values from a module that still has it, into a module that
    was passed already. So the last pass finds nothing new.
    """
    places, by_id, known = {}, {id(pair[0]): pair for pair in pairs}, -1
    while len(places) > known:
        known = len(places)
        for place in _replace_once(globals_above(module), by_id):
            places[id(place[0]), place[1]] = place
    return list(places.values())


def _replace_once(everywhere, by_id):
    places = []
    for module, names in everywhere:
        # Few modules have one of them: a set of ids is compared faster than a value at a time.
        if not by_id.keys().isdisjoint(map(id, list(names.values()))):
            for name, value in names.copy().items():
                if id(value) in by_id:
                    old, new = by_id[id(value)]
                    names[name] = new
                    places.append((module, name, old, new))
    return places
