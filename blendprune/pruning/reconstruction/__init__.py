"""Closed-form reconstruction: remaining weights are refit to the outputs of the dense model."""

from .reconstruction import Reconstruction

__all__ = ["Reconstruction"]
