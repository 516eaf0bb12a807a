"""Engines: what runs one core, from arrays to arrays.

An engine has ``run(arrays)``: from a dict of ``np.ndarray`` by the names of the inputs to one by
the names of the outputs. One that runs files is made of the path, the names, and a number of
threads.
"""

from .onnxruntime_engine import OnnxRuntimeEngine
from .openvino_engine import OpenVINOEngine
from .torch_engine import TorchEngine

# Those that run files.
ENGINES = {"onnxruntime": OnnxRuntimeEngine, "openvino": OpenVINOEngine}

__all__ = ["ENGINES", "OnnxRuntimeEngine", "OpenVINOEngine", "TorchEngine"]
