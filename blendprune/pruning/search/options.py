"""How to prune: one validated set of options for every entry point."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ...checks import check_count
from ...config.target import check_fraction
from ...errors import ConfigError
from ..cost.forms import runtime_form
from ..graph.layer_patterns import resolve_layers, resolve_ratios
from ..scores import build_importance, check_normalizer
from .rounding import AUTO, check_round_to, choose_rounding

#: Of ``pruning_ratio_dict``.
LayerRatios = (
    Mapping[str, float]
    | Mapping[nn.Module, float]
    | Mapping[str | nn.Module, float]
    | Sequence[tuple[str | nn.Module, float]]
)


@dataclass(frozen=True)
class PruningOptions:
    """How channels are chosen and which widths are allowed.

    ``blendprune.prune`` explains each option; ``plan``, ``measure_sensitivity`` and
    ``GradualPruning`` take those that concern them.

    Attributes:
        importance (str | Callable), normalize (str | None), reconstruct (bool),
        global_pruning (bool), isomorphic (bool): how channels are chosen.
        round_to (int | str | Rounding): new widths are multiples of it; ``"auto"``: of what the
            device runs well.
        max_pruning_ratio (float): no group loses more than this fraction of its dense width.
        ignored_layers (Sequence), pruning_ratio_dict (dict | None): settings of single layers.
        runtime (str): name of the form in which a latency is measured.
        device (torch.device | str): of the model; it decides what ``"auto"`` is.

    Raises:
        ConfigError: an option is invalid.
    """

    importance: str | Callable = "obs"
    normalize: str | None = None
    reconstruct: bool = True
    global_pruning: bool = True
    isomorphic: bool = False
    round_to: int | str = AUTO
    max_pruning_ratio: float = 0.9
    ignored_layers: Sequence[str | nn.Module] = ()
    pruning_ratio_dict: LayerRatios | None = None
    runtime: str = "eager"
    device: torch.device | str = "cpu"

    def __post_init__(self):
        build_importance(self.importance)
        valid = {
            "normalize": check_normalizer(self.normalize),
            "reconstruct": _check_flag("reconstruct", self.reconstruct),
            "global_pruning": _check_flag("global_pruning", self.global_pruning),
            "isomorphic": _check_flag("isomorphic", self.isomorphic),
            "round_to": check_round_to(self.round_to),
            "runtime": runtime_form(self.runtime).name,
            "max_pruning_ratio": _check_max_pruning_ratio(self.max_pruning_ratio),
        }
        for name, value in valid.items():
            object.__setattr__(self, name, value)

    @property
    def rounding(self):
        """What new widths are multiples of (Rounding)."""
        return choose_rounding(self.round_to, self.device)

    def and_finer(self):
        """These options and, if the device decides on the rounding, those with finer steps.

        Returns:
            list[PruningOptions]: coarsest first.
        """
        return [replace(self, round_to=each) for each in self.rounding.and_finer()]

    def check_target(self, target):
        """Refuse a target that no group may reach.

        Args:
            target (Target): of the pruning.

        Raises:
            ConfigError: it is a pruning ratio above ``max_pruning_ratio``.
        """
        if target.is_ratio and target.value > self.max_pruning_ratio:
            raise ConfigError(
                f"pruning_ratio {target.value} is above max_pruning_ratio "
                f"{self.max_pruning_ratio}; raise the latter"
            )

    def check_layers(self, model):
        """Refuse layers that the model lacks, and ratios of layers above the limit.

        Args:
            model (nn.Module): to be pruned.

        Raises:
            ConfigError: an entry of ``ignored_layers`` or ``pruning_ratio_dict`` is invalid.
        """
        resolve_layers(model, self.ignored_layers)
        for named in set(resolve_ratios(model, self.pruning_ratio_dict).values()):
            if named.ratio > self.max_pruning_ratio:
                raise ConfigError(
                    f"pruning_ratio_dict has {named.ratio:g} for {named.entry!r}, above "
                    f"max_pruning_ratio {self.max_pruning_ratio:g}; raise the latter"
                )


def check_rounds(rounds):
    """Return the number of rounds, or None for automatic.

    Raises:
        ConfigError: it is no whole number of at least 1, and neither None nor 0.
    """
    if rounds in (None, 0):
        return None
    return check_count("rounds", rounds, "leave it out for as few as are good")


def _check_flag(name, value):
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}: set it to one of them")
    return value


def _check_max_pruning_ratio(ratio):
    check_fraction("max_pruning_ratio", ratio)
    return float(ratio)
