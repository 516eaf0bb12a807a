"""The target of a pruning: what is counted, and how much of it is wanted."""

from dataclasses import dataclass

from ..errors import ConfigError

#: Name of each target → the unit that it counts. Keys of the config and flags have the same names.
TARGETS = {
    "pruning_ratio": "channels",
    "max_flops": "flops",
    "max_params": "params",
    "max_activations": "activations",
    "max_latency": "latency",
}


@dataclass(frozen=True)
class Target:
    """One target of a pruning.

    Attributes:
        kind (str): a key of :data:`TARGETS`.
        value (float): a fraction, 0 < x < 1: of the channels to remove for ``"pruning_ratio"``, of
            the dense model's cost to keep for all others.

    Raises:
        ConfigError: the value is not such a fraction.
    """

    kind: str
    value: float

    def __post_init__(self):
        check_fraction(self.kind, self.value)
        object.__setattr__(self, "value", float(self.value))

    @classmethod
    def only(cls, values):
        """The one target that is set.

        Args:
            values (dict[str, float | None]): by kind; None for a target that is not set.

        Raises:
            ConfigError: none or several are set, or the value is no fraction.
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

    def levels(self, values):
        """Targets of the same kind on the way to this one.

        Args:
            values (Sequence[float]): their fractions.

        Returns:
            list[Target]: in the order in which a model passes them, without this target.

        Raises:
            ConfigError: a level is no fraction, or is not on the way.
        """
        if isinstance(values, (str, int, float)):
            raise ConfigError(f"levels is {values!r}: pass a list of numbers, for example [0.75]")
        for level in values:
            check_fraction("a level", level)
            if level >= self.value if self.is_ratio else level <= self.value:
                raise ConfigError(
                    f"level {level:g} is not on the way to {self.kind} {self.value:g}: the target "
                    "is the furthest level, give levels before it"
                )
        ordered = sorted({float(level) for level in values}, reverse=not self.is_ratio)
        return [Target(self.kind, level) for level in ordered]


def check_fraction(name, value):
    """Refuse a value that is not a number between 0 and 1.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(
            f"{name} must be a number between 0 and 1, got {value!r}: write 0.5 for half"
        )
