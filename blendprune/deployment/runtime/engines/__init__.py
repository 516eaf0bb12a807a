"""Engines: what runs one core, from arrays to arrays.

An engine has ``run(arrays)``: from a dict of ``np.ndarray`` by the names of the inputs to one by
the names of the outputs.
"""

from .torch_engine import TorchEngine

__all__ = ["TorchEngine"]
