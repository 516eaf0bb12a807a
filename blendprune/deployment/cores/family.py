"""The registry of families, and the look-up of a model's cores."""

from fvcore.common.registry import Registry

from ...errors import DeployError
from ...wrappers import given_model
from .core import CoreSet
from .schema import Invalid

FAMILY_REGISTRY = Registry("FAMILY")
FAMILY_REGISTRY.__doc__ = """
Families of detectors whose cores are known: subclasses of :class:`Family`, by their name.
"""

_OURS = ("detectron2", "adet", "blendprune")


class Family:
    """A family of detectors: how to recognise it, its cores, and its settings.

    The name of the class is the name of the family.

    Attributes:
        settings (Callable): check of the settings, from :mod:`schema`.
    """

    settings = None

    @classmethod
    def matches(cls, model):
        """Whether a model is of this family.

        Args:
            model (nn.Module): any model.
        """
        raise NotImplementedError

    @classmethod
    def take_apart(cls, model):
        """The cores and settings of a model that :meth:`matches`.

        Args:
            model (nn.Module): in eval mode.

        Returns:
            tuple[dict[str, Core], dict]: cores, the one of the image first, and settings.

        Raises:
            DeployError: a part of the model is not known.
        """
        raise NotImplementedError


class _Families:
    """Name → family, in alphabetical order of names."""

    def __iter__(self):
        return iter(sorted(name for name, _ in FAMILY_REGISTRY))

    def __contains__(self, name):
        return name in FAMILY_REGISTRY

    def __getitem__(self, name):
        return FAMILY_REGISTRY.get(name)


FAMILIES = _Families()


def cores_of(model):
    """Take a model apart for an exporter.

    Args:
        model (nn.Module): a detectron2-style model, dense, pruned or deployed. It is put into eval
            mode, and shares its weights with the cores.

    Returns:
        CoreSet: family, cores and settings.

    Raises:
        ConfigError: it is no module.
        DeployError: it is of no known family, or has a part that is not known.
    """
    model = given_model(model).eval()
    for name in FAMILIES:
        family = FAMILIES[name]
        if family.matches(model):
            cores, settings = family.take_apart(model)
            try:
                return CoreSet(name, cores, family.settings(settings, "settings"))
            except Invalid as error:
                raise DeployError(
                    f"{type(model).__name__} cannot be exported, because {error}: set its config "
                    "to such a value"
                ) from None
    raise DeployError(
        f"{type(model).__name__} has no known cores, which {', '.join(FAMILIES)} have: export the "
        "modules that map tensors to tensors by torch.onnx.export, and decode as its class does"
    )


def check_settings(family, settings):
    """Check the settings of a file.

    Args:
        family (str): a key of ``FAMILIES``.
        settings (object): from JSON.

    Returns:
        dict: the settings.

    Raises:
        Invalid: a value is missing, unknown, of another type or out of range.
    """
    return FAMILIES[family].settings(settings, "settings")


def runs_as(part, method, *names):
    """Whether an object runs a known method, not one that a subclass of a user overrides.

    Args:
        part (object): for example a model.
        method (str): for example ``"forward"``.
        names (str): of upstream's classes that define the method in the known way.
    """
    for cls in type(part).__mro__:
        if method in vars(cls):
            return cls.__name__ in names and cls.__module__.split(".")[0] in _OURS
    return False


def refuse_part(model, part):
    """The error for a part of another class than upstream's."""
    return DeployError(
        f"{type(model).__name__} has a {type(part).__name__}, whose outputs cannot be decoded "
        "outside of the model: replace it by upstream's class, or export its tensors yourself"
    )
