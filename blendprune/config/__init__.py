"""Config keys of blendprune, and what belongs to a config: targets, imports, sentences."""

from .keys import (
    add_prune_config,
    asks_for_hooks,
    asks_the_loop,
    find_moved,
    prune_mode,
    prunes_in_script,
)

__all__ = [
    "add_prune_config",
    "asks_for_hooks",
    "asks_the_loop",
    "find_moved",
    "prune_mode",
    "prunes_in_script",
]
