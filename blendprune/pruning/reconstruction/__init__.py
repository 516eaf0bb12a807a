"""Closed-form reconstruction: what is left of a layer learns to do what the whole one did."""

from .reconstruction import Reconstruction

__all__ = ["Reconstruction"]
