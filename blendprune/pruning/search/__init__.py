"""Widths for a target: the search, the rounds, the sensitivity."""
