"""Run an exported file like the model that it was made from.

::

    import blendprune.runtime

    detector = blendprune.runtime.load("model.onnx", engine="onnxruntime")
    [result] = detector([{"image": image}])        # as the model in inference

Supported models: docs/deploy.md.
"""

from .deployment.runtime import Detector, load

__all__ = ["Detector", "load"]
