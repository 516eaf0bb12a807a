"""Checks of plain data from files, which anyone may have written.

A check takes a value and where it stands, gives the value, and raises :class:`Invalid` with what is
wanted there.
"""

import math
import re


class Invalid(ValueError):
    """A value is not what its check wants; the message says where, what, and what is wanted."""


def integer(low=-(2**31), high=2**31):
    """A whole number from ``low`` to ``high``."""

    def check(value, where):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _wrong(value, where, f"a whole number from {low} to {high}")
        return value

    return check


def number(low=-1e12, high=1e12):
    """A finite number from ``low`` to ``high``."""

    def check(value, where):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _wrong(value, where, "a number")
        if not math.isfinite(value) or not low <= value <= high:
            raise _wrong(value, where, f"a number from {low:g} to {high:g}")
        return value

    return check


def boolean(value, where):
    """True or false."""
    if not isinstance(value, bool):
        raise _wrong(value, where, "true or false")
    return value


def name(value, where):
    """A name of letters, digits, dots, dashes and underscores."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
        raise _wrong(value, where, "a name of at most 64 letters, digits, '_', '.' and '-'")
    return value


def one_of(*known):
    """One of these texts."""

    def check(value, where):
        if not isinstance(value, str) or value not in known:
            raise _wrong(value, where, f"one of {', '.join(known)}")
        return value

    return check


def optional(other):
    """Null, or what another check wants; a field that older files lack is null."""

    def check(value, where):
        return None if value is None else other(value, where)

    check.is_optional = True
    return check


def list_of(other, least=1, most=64):
    """A list of ``least`` to ``most`` values of one kind."""

    def check(value, where):
        if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
            count = least if least == most else f"{least} to {most}"
            raise _wrong(value, where, f"a list of length {count}")
        return [other(each, f"{where}[{i}]") for i, each in enumerate(value)]

    return check


def record(**fields):
    """An object with exactly these fields; those that are :func:`optional` may be missing."""
    wanted = [key for key, check in fields.items() if not hasattr(check, "is_optional")]

    def check(value, where):
        if not isinstance(value, dict):
            raise _wrong(value, where, f"an object with the fields {', '.join(fields)}")
        for key in value:
            if key not in fields:
                raise Invalid(f"{where} has the field {_short(key)}, which is unknown")
        for key in wanted:
            if key not in value:
                raise Invalid(f"{where} lacks the field {key!r}")
        return {key: each(value.get(key), f"{where}.{key}") for key, each in fields.items()}

    return check


def mapping(other, most=64):
    """An object from names to values of one kind."""

    def check(value, where):
        if not isinstance(value, dict) or not 1 <= len(value) <= most:
            raise _wrong(value, where, f"an object with 1 to {most} fields")
        return {
            name(key, f"a key of {where}"): other(x, f"{where}.{key}") for key, x in value.items()
        }

    return check


def anything(value, where):
    """Any value: checked later."""
    return value


def _wrong(value, where, wanted):
    return Invalid(f"{where} is {_short(value)}, not {wanted}")


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
