"""int8: a core with quantized convs and linears, in the form that engines read (QDQ).

Weights get a scale per channel, activations one per tensor, from the smallest and largest values on
calibration images. The first conv stays in float: after it, all of a network sees the colours of an
image in 256 steps. Further layers stay in float where the error of the outputs demands it.
"""

import logging
import os
import tempfile

import numpy as np

from ...errors import DeployError, error_line
from ...progress import Counted, stage
from ..extra import need
from ..session import open_session

_log = logging.getLogger(__name__)

# What is quantized: the layers, and what passes int8 on between them. Norms and sigmoids are not.
_LAYERS = ("Conv", "Gemm", "MatMul")
_OPERATORS = (*_LAYERS, "Add", "Concat", "MaxPool", "Relu", "Resize", "Reshape", "Flatten")
# Mean squared error of an output relative to its variance.
_ERROR = 0.005
# What is worth more layers in float: an error that is smaller by this factor.
_LESS = 0.9
# Inputs that the error is measured on, and the largest part of the layers that may stay in float.
_MEASURED, _MOST = 8, 0.25


def quantize_file(source, target, inputs, name, first_in_float):
    """Quantize the file of a core.

    Layers are put back to float, those first where the error rises most, until the error of every
    output is small, or a quarter of the layers is in float. Then the best that was tried is
    written, with a warning.

    Args:
        source (str): the float file.
        target (str): where to write.
        inputs (list[dict[str, np.ndarray]]): calibration inputs, at least one.
        name (str): of the core, for messages.
        first_in_float (bool): keep the layers in float that see the inputs.

    Returns:
        dict: ``"inputs"``, how many; ``"layers"``, how many; ``"float"``, names of those in float;
        ``"errors"``, output → mean squared error relative to its variance.

    Raises:
        DeployError: a package is missing, or onnxruntime cannot quantize the file.
    """
    [onnx, _] = need("int8", "onnx", "onnxruntime")
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _quantize(onnx, source, target, inputs, first_in_float, folder)
    except DeployError:
        raise
    except Exception as error:  # of onnx and onnxruntime
        raise DeployError(
            f"onnxruntime cannot quantize the core {name!r} ({error_line(error)}): export it "
            "without int8, or install a newer onnxruntime"
        ) from error


def _quantize(onnx, source, target, inputs, first_in_float, folder):
    plain = os.path.join(folder, "plain.onnx")
    _fold(source, plain)
    model = onnx.load(plain)
    layers = [node for node in model.graph.node if node.op_type in _LAYERS]
    ranges = _ranges(plain, inputs, folder)
    watched = [layer.output[0] for layer in layers]
    measured = inputs[:: -(-len(inputs) // _MEASURED)]
    exact = _run(onnx, model, watched, measured)
    found, best = _first_layers(model) if first_in_float else [], None
    while True:
        quantized = _quantized(onnx, plain, ranges, found)
        errors = _errors(exact, _run(onnx, quantized, watched, measured))
        outputs = {value.name: errors[value.name] for value in model.graph.output}
        worst = max(outputs.values(), default=0.0)
        stage(f"int8, {len(found)} layers in float: worst error {worst:.2g} of the variance")
        # More layers in float are no better in themselves: the numbers of others round otherwise.
        if best is None or worst <= _ERROR or worst < _LESS * best[0]:
            best = worst, quantized, found, outputs
        others = [layer for layer in layers if layer.name not in found]
        most = max(int(_MOST * len(layers)), 1)
        step = min(max(1, len(found)), most - len(found), len(others))
        if worst <= _ERROR or step < 1:
            break
        rises = _rises(model, others, errors)
        found = found + sorted(rises, key=rises.get, reverse=True)[:step]
    worst, quantized, found, outputs = best
    if worst > _ERROR:
        _log.warning(
            "int8: an output of %s differs by %.2g of its variance from the float model's, more "
            "than %g: compare the AP of both (blendprune eval), or export without int8",
            os.path.basename(target),
            worst,
            _ERROR,
        )
    _keep_metadata(onnx, source, quantized)
    onnx.save(quantized, target)
    return {"inputs": len(inputs), "layers": len(layers), "float": found, "errors": outputs}


def _fold(source, target):
    """Fold the norms of each level of a shared conv, which are separate nodes here."""
    import onnxruntime

    basic = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    open_session(source, graph_optimization_level=basic, optimized_model_filepath=target)


def _ranges(path, inputs, folder):
    """Smallest and largest value of each tensor."""
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self):
            self._left = iter(Counted(inputs, "int8: ranges of image"))

        def get_next(self):
            return next(self._left, None)

    calibrator = create_calibrator(
        path, list(_OPERATORS), augmented_model_path=os.path.join(folder, "calibration.onnx")
    )
    calibrator.collect_data(Reader())
    return calibrator.compute_data()


def _quantized(onnx, path, ranges, in_float):
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(onnx.load(path)),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=None,
        nodes_to_exclude=list(in_float),
        op_types_to_quantize=list(_OPERATORS),
        # Without its Relu, a layer would give other numbers to compare.
        extra_options={"QDQKeepRemovableActivations": True},
    )
    quantizer.quantize_model()
    found = quantizer.model.model
    _read_float(found, set(in_float))
    return found


def _read_float(model, in_float):
    """Let layers in float read what they would read without the quantization of that tensor."""
    makers = {name: node for node in model.graph.node for name in node.output}

    def is_a(node, kind):
        return node is not None and node.op_type == kind

    for node in model.graph.node:
        for i, name in enumerate(node.input if node.name in in_float else ()):
            back = makers.get(name)
            there = makers.get(back.input[0]) if is_a(back, "DequantizeLinear") else None
            if is_a(there, "QuantizeLinear"):
                node.input[i] = there.input[0]


def _run(onnx, model, watched, inputs):
    """Values of the outputs and of tensors inside, for each of the inputs."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    known = {value.name for value in seen.graph.output}
    for tensor in watched:
        if tensor not in known:
            seen.graph.output.append(
                onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None)
            )
    session = open_session(seen.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    return [dict(zip(names, session.run(names, each))) for each in inputs]


def _errors(exact, found):
    """Tensor → mean squared error relative to the variance, over all inputs."""
    errors = {}
    for name in exact[0]:
        pairs = [(a[name].ravel(), b[name].ravel()) for a, b in zip(exact, found) if a[name].size]
        if not pairs:
            errors[name] = 0.0
            continue
        wanted, given = (np.concatenate(each).astype(np.float64) for each in zip(*pairs))
        variance = wanted.var()
        errors[name] = float(((wanted - given) ** 2).mean() / variance) if variance else 0.0
    return errors


def _first_layers(model):
    """Names of the layers that no other layer feeds."""
    fed, first = set(), []
    for node in model.graph.node:
        if node.op_type in _LAYERS and not fed.intersection(node.input):
            first.append(node.name)
        if node.op_type in _LAYERS or fed.intersection(node.input):
            fed.update(node.output)
    return first


def _rises(model, layers, errors):
    """Layer → how much the error rises from what feeds it to what it gives."""
    known = {value.name: 0.0 for value in model.graph.input}
    for node in model.graph.node:
        before = max((known.get(name, 0.0) for name in node.input), default=0.0)
        known.update(dict.fromkeys(node.output, before))
        for name in node.output:
            if name in errors:
                known[name] = errors[name]
    rises = {}
    for layer in layers:
        before = max((known.get(name, 0.0) for name in layer.input), default=0.0)
        rises[layer.name] = errors[layer.output[0]] - before
    return rises


def _keep_metadata(onnx, source, model):
    del model.metadata_props[:]
    model.metadata_props.extend(onnx.load(source, load_external_data=False).metadata_props)
