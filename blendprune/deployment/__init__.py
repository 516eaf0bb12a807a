"""Deployment: a trained model in the form that runs fastest, with the same inputs and outputs."""

from .deploy import deploy

__all__ = ["deploy"]
