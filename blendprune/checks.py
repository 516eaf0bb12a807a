"""Checks of single values, with sentences that say what was found and what is wanted."""

import difflib
import reprlib

from .errors import ConfigError


def check_count(name, value, otherwise="set it to such a number"):
    """Refuse a value that is not a whole number of at least 1.

    Args:
        name (str): what the message calls it.
        value (object): to check.
        otherwise (str): what the message says to do.

    Returns:
        int: the value.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"{name} must be a whole number of at least 1, got {value!r}: {otherwise}"
        )
    return value


def check_callable(name, value):
    """Refuse a value that is neither None nor can be called.

    Args:
        name (str): what the message calls it.
        value (object): to check.

    Raises:
        ConfigError: it is something else.
    """
    if value is not None and not callable(value):
        raise ConfigError(f"{name} is {value!r}, which cannot be called: pass a function or None")


class _Shown(reprlib.Repr):
    def repr_instance(self, value, level):
        return f"a {type(value).__name__}"


def shown(value):
    """A value from a file as a message shows it: short, whatever the value is.

    Args:
        value (object): plain data of any size and depth.

    Returns:
        str: on one line, at most about 100 characters.
    """
    try:
        return _Shown().repr(value)[:100]
    except ValueError:  # Python refuses to print a large int
        return f"a {type(value).__name__}"


def similar(name, known):
    """A question that offers the known names most like an unknown one.

    Args:
        name (str): not among ``known``.
        known (Iterable[str]): names.

    Returns:
        str: ``" (did you mean 'taylor'?)"``; empty if none is similar.
    """
    found = difflib.get_close_matches(str(name), list(known), n=2, cutoff=0.76)
    return f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""
