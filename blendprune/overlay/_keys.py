"""Keys added to nested dicts, and removed again: config nodes and registries."""

_ABSENT = object()


class Keys:
    """The keys that somebody adds to nested dicts.

    Args:
        mapping (dict): as it is before they are added.
    """

    def __init__(self, mapping):
        self._mapping = mapping
        self._before = {path for path, _ in _paths(mapping)}
        self._added = []

    def note_additions(self):
        """Remember the keys that the dicts have now and had not before."""
        new = ((path, value) for path, value in _paths(self._mapping) if path not in self._before)
        self._added = list(new)

    def remove(self):
        """Remove the added keys, except those whose value changed and those that hold others."""
        for path, value in reversed(self._added):
            if self._holds(path, value) and not (isinstance(value, dict) and value):
                _look_up(self._mapping, path[:-1]).pop(path[-1])

    def changed(self):
        """Describe the added keys whose value changed since.

        Returns:
            list[str]: one phrase per key.
        """
        return [
            f"{'.'.join(path)} is {_shown(_look_up(self._mapping, path))}"
            for path, value in self._added
            if not self._holds(path, value)
        ]

    def _holds(self, path, value):
        now = _look_up(self._mapping, path)
        if isinstance(value, dict) or now is value:
            return now is value
        return type(now) is type(value) and now == value


def _paths(mapping, prefix=()):
    """Yield path and value of every key in nested dicts, parents before children."""
    for key, value in mapping.copy().items():  # another thread may register meanwhile
        yield (*prefix, key), value
        if isinstance(value, dict):
            yield from _paths(value, (*prefix, key))


def _look_up(mapping, path):
    for key in path:
        mapping = mapping.get(key, _ABSENT) if isinstance(mapping, dict) else _ABSENT
    return mapping


def _shown(value):
    return "deleted" if value is _ABSENT else repr(value).splitlines()[0]
