"""The registry of architectures, and the look-up of a model's."""

from typing import TypeVar

from fvcore.common.registry import Registry

from ...errors import ConfigError
from ...wrappers import unwrap
from .default import Architecture

Family = TypeVar("Family", bound=type[Architecture])

ARCHITECTURES = Registry("ARCHITECTURE")
ARCHITECTURES.__doc__ = """
Registry of detector families: subclasses of :class:`Architecture`, by the name of the class.

Of the classes that match a model, the one registered last counts: a user's class precedes ours.
"""


def register_architecture(cls: Family) -> Family:
    """Tell blendprune how a family of detectors runs; use it as a class decorator.

    Args:
        cls (type): a subclass of ``blendprune.Architecture``.

    Returns:
        type: ``cls``.

    Raises:
        ConfigError: it is no such class, has no ``matches`` of its own, or its name is taken.

    Example::

        @blendprune.register_architecture
        class MyDetector(blendprune.Architecture):
            @classmethod
            def matches(cls, model):
                return type(model).__name__ == "MyDetector"
    """
    if not isinstance(cls, type) or not issubclass(cls, Architecture):
        raise ConfigError(
            f"register_architecture got {cls!r}: pass a subclass of blendprune.Architecture."
        )
    if cls.__name__ in ARCHITECTURES:
        raise ConfigError(
            f"an architecture named {cls.__name__!r} is registered already: rename the class."
        )
    if getattr(cls.matches, "__func__", None) is vars(Architecture)["matches"].__func__:
        raise ConfigError(
            f"{cls.__name__} has no matches() of its own and would claim every model: write a "
            "classmethod matches(cls, model) that tells which models it is for."
        )
    ARCHITECTURES.register(cls)
    return cls


def architecture_of(model):
    """How a model runs.

    Args:
        model (nn.Module): wrapped or not, inside or outside the prunable view.

    Returns:
        Architecture: of the registered class that matches and was registered last, or the default.
    """
    model = unwrap(model)
    found = [cls for _, cls in ARCHITECTURES if cls.matches(model)]
    return (found[-1] if found else Architecture)(model)
