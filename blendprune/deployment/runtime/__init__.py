"""Run the cores of a detector like the model that they were taken from.

It needs PyTorch, torchvision, the Python part of detectron2, and an engine; neither AdelaiDet nor
the model's class.
"""

from .detector import Detector, run_in_pytorch

__all__ = ["Detector", "run_in_pytorch"]
