"""How to prune: one validated set of options for every entry point."""

from collections.abc import Callable
from dataclasses import dataclass

from ...errors import ConfigError
from ..graph.layer_patterns import resolve_layers, resolve_ratios
from ..scores import build_importance, check_normalizer


@dataclass(frozen=True)
class PruningOptions:
    """How channels are chosen and which widths are allowed.

    ``blendprune.prune`` explains each option; ``plan``, ``measure_sensitivity`` and
    ``GradualPruning`` take those that concern them.

    Attributes:
        importance (str | Callable), normalize (str | None), reconstruct (bool),
        global_pruning (bool), isomorphic (bool): how channels are chosen.
        round_to (int): new widths are multiples of it; None and 0 count as 1.
        max_pruning_ratio (float): no group loses more than this fraction of its dense width.
        ignored_layers (Sequence), pruning_ratio_dict (dict | None): settings of single layers.

    Raises:
        ConfigError: an option is invalid.
    """

    importance: str | Callable = "obs"
    normalize: str | None = None
    reconstruct: bool = True
    global_pruning: bool = True
    isomorphic: bool = False
    round_to: int = 1
    max_pruning_ratio: float = 0.9
    ignored_layers: tuple = ()
    pruning_ratio_dict: dict | None = None

    def __post_init__(self):
        build_importance(self.importance)
        valid = {
            "normalize": check_normalizer(self.normalize),
            "reconstruct": bool(self.reconstruct),
            "global_pruning": bool(self.global_pruning),
            "isomorphic": bool(self.isomorphic),
            "round_to": _check_round_to(self.round_to),
            "max_pruning_ratio": _check_max_pruning_ratio(self.max_pruning_ratio),
        }
        for name, value in valid.items():
            object.__setattr__(self, name, value)

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
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ConfigError(f"rounds must be a whole number of at least 1, got {rounds!r}")
    return rounds


def _check_round_to(round_to):
    round_to = 1 if round_to in (None, 0) else round_to
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise ConfigError(f"round_to must be a whole number of at least 1, got {round_to!r}")
    return round_to


def _check_max_pruning_ratio(ratio):
    if not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
        raise ConfigError(f"max_pruning_ratio must be a number between 0 and 1, got {ratio!r}")
    return float(ratio)
