"""Apply the overlay on import: ``import blendprune.auto`` does what ``apply()`` does."""

from .overlay import apply

apply()
