"""The target of a pruning: what is counted, and how much of it is wanted."""

import math
from dataclasses import dataclass, replace

from ..errors import ConfigError

#: Name of each target → the unit that it counts. Keys of the config and flags have the same names.
TARGETS = {
    "pruning_ratio": "channels",
    "max_flops": "flops",
    "max_params": "params",
    "max_activations": "activations",
    "max_memory": "memory",
    "max_latency": "latency",
}

#: Targets that may also be absolute numbers → their unit, its name, its size in what is counted.
ABSOLUTE = {
    "max_memory": ("MB", "megabytes", 1e6),
    "max_latency": ("ms", "milliseconds", 1.0),
}


@dataclass(frozen=True)
class Target:
    """One target of a pruning.

    Attributes:
        kind (str): a key of :data:`TARGETS`.
        value (float): a fraction, 0 < x < 1: of the channels to remove for ``"pruning_ratio"``, of
            the given model's cost to keep for all others. For a key of :data:`ABSOLUTE` also, from
            1 on, an absolute number: ``Target("max_latency", 35)`` is 35 ms.
        dense (float | None): the cost of the given model, if :meth:`as_fraction` has divided an
            absolute number by it.

    Raises:
        ConfigError: the value is no such number.
    """

    kind: str
    value: float
    dense: float | None = None

    def __post_init__(self):
        if self.kind in ABSOLUTE:
            _check_either(self.kind, self.value, self.kind)
        else:
            check_fraction(self.kind, self.value)
        object.__setattr__(self, "value", float(self.value))

    @classmethod
    def only(cls, values):
        """The one target that is set.

        Args:
            values (dict[str, float | None]): by kind; None for a target that is not set.

        Raises:
            ConfigError: none or several are set, or the value is invalid.
        """
        given = {kind: value for kind, value in values.items() if value is not None}
        if len(given) != 1:
            raise ConfigError(
                f"exactly one of {', '.join(values)} is wanted, got {', '.join(given) or 'none'}: "
                "set one to a number between 0 and 1"
            )
        [(kind, value)] = given.items()
        return cls(kind, value)

    @property
    def unit(self):
        """The cost that is counted: ``"channels"``, ``"flops"``, …"""
        return TARGETS[self.kind]

    @property
    def is_ratio(self):
        """Whether the target is a fraction of the channels."""
        return self.kind == "pruning_ratio"

    @property
    def is_absolute(self):
        """Whether the value is an absolute number, not a fraction."""
        return self.value >= 1

    def as_fraction(self, dense):
        """This target as a fraction of the given model's cost.

        Args:
            dense (float): cost of the model that is given to be pruned: ms, or bytes.

        Returns:
            Target: this one if it is a fraction; otherwise one whose words stay absolute.

        Raises:
            ConfigError: the model does not cost more than the absolute number.
        """
        if not self.is_absolute:
            return self
        unit, name, size = ABSOLUTE[self.kind]
        if self.value * size >= dense:
            raise ConfigError(
                f"{self} is met already: the given model has {_digits(dense / size)} {unit}; ask "
                f"for fewer {name}, or for a fraction below 1"
            )
        return replace(self, value=self.value * size / dense, dense=dense)

    def __str__(self):
        if self.dense is None and not self.is_absolute:
            return f"{self.kind} {self.value}"
        unit, _, size = ABSOLUTE[self.kind]
        value = self.value if self.dense is None else self.value * self.dense / size
        return f"{self.kind} {value:g} {unit}"

    def words(self, fraction, digits=3):
        """A cost in the words of this target, rounded up.

        Args:
            fraction (float): of the given model's cost.
            digits (int): behind the point.

        Returns:
            str: ``"0.413 of the dense model's flops"``, or ``"86.1 MB"`` for an absolute number.
        """
        if self.dense is None:
            shown = math.ceil(fraction * 10**digits) / 10**digits
            return f"{shown:.{digits}f} of the dense model's {self.unit}"
        unit, _, size = ABSOLUTE[self.kind]
        return f"{_digits(fraction * self.dense / size, math.ceil)} {unit}"

    def levels(self, values):
        """Targets of the same kind on the way to this one.

        Args:
            values (Sequence[float]): fractions if this one is a fraction, else absolute numbers.

        Returns:
            list[Target]: in the order in which a model passes them, without this target.

        Raises:
            ConfigError: a level is no such number, or is not on the way.
        """
        if isinstance(values, (str, int, float)):
            raise ConfigError(f"levels is {values!r}: pass a list of numbers, for example [0.75]")
        for level in values:
            self._check_level(level)
        ordered = sorted({float(level) for level in values}, reverse=not self.is_ratio)
        return [Target(self.kind, level) for level in ordered]

    def _check_level(self, level):
        if self.kind in ABSOLUTE:
            _check_either("a level", level, self.kind)
            if (level >= 1) != self.is_absolute:
                sorts = ("a fraction", "an absolute number")
                raise ConfigError(
                    f"level {level:g} is {sorts[level >= 1]}, but {self} is "
                    f"{sorts[self.is_absolute]}: give levels of the same sort"
                )
        else:
            check_fraction("a level", level)
        if level >= self.value if self.is_ratio else level <= self.value:
            raise ConfigError(
                f"level {level:g} is not on the way to {self.kind} {self.value:g}: the target "
                "is the furthest level, give levels before it"
            )


def check_fraction(name, value):
    """Refuse a value that is not a number between 0 and 1.

    Raises:
        ConfigError: it is not.
    """
    if not _is_number(value) or not 0 < value < 1:
        raise ConfigError(
            f"{name} must be a number between 0 and 1, got {value!r}: write 0.5 for half"
        )


def _check_either(name, value, kind):
    """Refuse what is neither a fraction nor an absolute number for a target that may be both."""
    if not _is_number(value) or not 0 < value < math.inf:
        unit, units, _ = ABSOLUTE[kind]
        raise ConfigError(
            f"{name} must be a fraction below 1, or from 1 on a number of {units}, got {value!r}: "
            f"write 0.5 for half, 35 for 35 {unit}"
        )


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _digits(value, whole=round):
    """A number with three digits, or more before the point."""
    behind = max(0, 2 - math.floor(math.log10(value)))
    return f"{whole(value * 10**behind) / 10**behind:.{behind}f}"
