"""Layers by module, by name, or by glob pattern of names."""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import nn

from ...checks import similar
from ...errors import ConfigError


class LayerRatio(NamedTuple):
    """The entry of ``pruning_ratio_dict`` for a module.

    Attributes:
        place (int): position of the entry; the last entry that names a module counts.
        entry (str): the entry, as text.
        ratio (float): fraction of the channels to remove.
    """

    place: int
    entry: str
    ratio: float


def resolve_layers(model, layers, argument="ignored_layers"):
    """Modules that ``layers`` names, with everything inside a named container.

    Args:
        model (nn.Module): where to look.
        layers (Sequence[str | nn.Module]): modules, names, or glob patterns of names.
        argument (str): name of the caller's argument, for messages.

    Returns:
        dict[nn.Module, str]: module → the last entry that names it, as text; at least one module
        per entry.

    Raises:
        ConfigError: an entry is no module of the model.
    """
    names = {module: name for name, module in model.named_modules()}
    found = {}
    layers = [layers] if isinstance(layers, (str, nn.Module)) else layers
    if not isinstance(layers, Iterable):
        raise ConfigError(f"{argument} is {layers!r}: pass a list of modules, names or patterns")
    for layer in layers:
        if isinstance(layer, str):
            matches = [m for m, name in names.items() if name and fnmatch.fnmatchcase(name, layer)]
        else:
            matches = [layer] if isinstance(layer, nn.Module) and layer in names else []
        if not matches:
            shown = type(layer).__name__ if isinstance(layer, nn.Module) else repr(layer)
            near = similar(layer, names.values()) if isinstance(layer, str) else ""
            raise ConfigError(
                f"{argument} has {shown}, which is no module of {type(model).__name__}{near}; "
                "use names of model.named_modules(), which blendprune.plan shows"
            )
        for match in matches:
            entry = layer if isinstance(layer, str) else names[layer]
            found.update(dict.fromkeys(match.modules(), entry))
    return found


def resolve_ratios(model, pruning_ratio_dict):
    """The entry of ``pruning_ratio_dict`` for each module.

    Args:
        model (nn.Module): where to look.
        pruning_ratio_dict (dict[str | nn.Module, float] | None): modules, names or glob patterns
            of names → fraction of the channels to remove, 0 ≤ x < 1. A list of pairs also works.

    Returns:
        dict[nn.Module, LayerRatio]: of the last entry that names the module; a container stands
        for everything in it.

    Raises:
        ConfigError: an entry is no module of the model, or its ratio is invalid.
    """
    entries = pruning_ratio_dict or {}
    if isinstance(entries, str) or not isinstance(entries, Iterable):
        raise ConfigError(
            f"pruning_ratio_dict is {entries!r}: pass a dict such as {{'backbone.*': 0.3}}"
        )
    found = {}
    for place, pair in enumerate(entries.items() if isinstance(entries, Mapping) else entries):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ConfigError(
                f"pruning_ratio_dict has {pair!r}: write [pattern, ratio], for example "
                "['backbone.*', 0.3]"
            )
        layer, ratio = pair
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio < 1:
            raise ConfigError(
                f"pruning_ratio_dict wants a number of at least 0 and below 1 for {layer!r}, got "
                f"{ratio!r}: write 0.5 for half"
            )
        named = resolve_layers(model, [layer], "pruning_ratio_dict")
        found.update((m, LayerRatio(place, entry, float(ratio))) for m, entry in named.items())
    return found
