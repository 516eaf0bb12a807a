"""ONNX Runtime, on the CPU."""

from ...extra import need
from ...session import open_session
from .failures import shapes_of, told_of


class OnnxRuntimeEngine:
    """Runs an ONNX file.

    Args:
        path (str): of the file.
        names (CoreNames): of its tensors.
        threads (int | None): that run one operator. None: one per core of the CPU.

    Raises:
        DeployError: the package is missing, or does not load the file.
    """

    def __init__(self, path, names, threads=None):
        need("the engine onnxruntime", "onnxruntime")
        with told_of("onnxruntime", f"load {path}"):
            self._session = open_session(path, threads)
        self._outputs = names.outputs

    def run(self, arrays):
        """Run the file; see :mod:`blendprune.deployment.runtime.engines`."""
        with told_of("onnxruntime", f"run {shapes_of(arrays)}"):
            return dict(zip(self._outputs, self._session.run(self._outputs, arrays)))
