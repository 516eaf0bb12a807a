"""A file that one conv fills: the smallest model that the runtime runs."""

import json

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

METADATA = {
    "format": 1,
    "family": "SemanticSegmentor",
    "settings": {
        "image": {
            "pixel_mean": [100.0, 110.0, 120.0],
            "pixel_std": [2.0, 3.0, 4.0],
            "size_divisibility": 8,
            "square_size": 0,
        },
        "sem_seg": {"stride": 2},
    },
    "cores": {"image": {"file": None, "inputs": ["images"], "outputs": ["sem_seg"]}},
}


def write_small(path, metadata=METADATA, output="sem_seg"):
    """Write a file of one conv with stride 2.

    Args:
        path (pathlib.Path): of the file.
        metadata (dict | str | None): what the file carries; None for nothing.
        output (str): name of its output.

    Returns:
        Tensor: the weight of the conv, (5, 3, 2, 2).
    """
    weight = torch.randn(5, 3, 2, 2)
    conv = helper.make_node("Conv", ["images", "weight"], [output], strides=[2, 2])
    graph = helper.make_graph(
        [conv],
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", 5, "i", "j"])],
        [numpy_helper.from_array(weight.numpy(), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        helper.set_model_props(model, {"blendprune": text})
    onnx.save(model, path)
    return weight
