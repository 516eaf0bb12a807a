"""``import blendprune.auto`` applies the overlay, for scripts where a call is one line too many."""

from .overlay import apply

apply()
