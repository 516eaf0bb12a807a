"""OpenVINO, on the CPU."""

from ...extra import need
from .failures import shapes_of, told_of
from .openvino_deform_conv import read_deform_convs


class OpenVINOEngine:
    """Runs an ONNX file.

    Args:
        path (str): of the file.
        names (CoreNames): of its tensors.
        threads (int | None): of inference. None: one per core of the CPU.

    Raises:
        DeployError: the package is missing, or does not load the file.
    """

    def __init__(self, path, names, threads=None):
        [openvino] = need("the engine openvino", "openvino")
        # By default it rounds to bfloat16 on CPUs that have it.
        options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        with told_of("openvino", f"load {path}"):
            core = openvino.Core()
            read_deform_convs(core)
            self._model = core.compile_model(path, "CPU", options)
            self._outputs = {name: self._model.output(name) for name in names.outputs}
        self._request = self._model.create_infer_request()

    def run(self, arrays):
        """Run the file; see :mod:`blendprune.deployment.runtime.engines`."""
        with told_of("openvino", f"run {shapes_of(arrays)}"):
            found = self._request.infer(arrays)
            return {name: found[output] for name, output in self._outputs.items()}
