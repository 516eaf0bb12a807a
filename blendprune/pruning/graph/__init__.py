"""Groups of channels that only go together."""
