"""Run an exported file like the model that it was made from; public as ``blendprune.runtime``.

It needs PyTorch, torchvision, the Python part of detectron2, and an engine; neither AdelaiDet nor
the model's class.
"""

from .detector import Detector, run_in_pytorch
from .load import load

__all__ = ["Detector", "load", "run_in_pytorch"]
