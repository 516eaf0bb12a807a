"""Deformable convs in OpenVINO give what they give in onnxruntime."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from blendprune.deployment.cores.metadata import CoreNames
from blendprune.deployment.runtime.engines import ENGINES

# Bias, mask, groups, offset groups, and further attributes.
CASES = {
    "plain": (False, False, 1, 1, {}),
    "with a bias": (True, False, 1, 1, {"pads": [1, 1, 1, 1]}),
    "modulated": (True, True, 1, 1, {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "in groups": (True, True, 2, 2, {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
}


def write(path, bias, mask, group, offset_group, attributes):
    """A file of one deformable conv on any image; the names of its inputs with their channels."""
    inputs = {"images": 4, "offsets": 18 * offset_group, "mask": 9 * offset_group if mask else 0}
    inputs = {name: channels for name, channels in inputs.items() if channels}
    weights = {"weight": np.random.randn(6, 4 // group, 3, 3), "bias": np.random.randn(6)}
    names = ["images", "weight", "offsets", "bias" if bias else "", "mask" if mask else ""]
    node = helper.make_node(
        "DeformConv",
        [*names[:3], *(names[3:] if mask else names[3:4] if bias else ())],
        ["map"],
        **{"group": group, "offset_group": offset_group, "kernel_shape": [3, 3], **attributes},
    )

    def value(name, channels):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, None, None])

    graph = helper.make_graph(
        [node],
        "small",
        [value(*each) for each in inputs.items()],
        [value("map", 6)],
        [
            onnx.numpy_helper.from_array(weights[name].astype(np.float32), name)
            for name in names
            if name in weights
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path
    )
    return inputs


@pytest.mark.parametrize("case", CASES)
def test_a_deformable_conv_gives_the_same_in_both_engines(tmp_path, case):
    pytest.importorskip("openvino")
    np.random.seed(0)
    *kind, attributes = CASES[case]
    path = str(tmp_path / "model.onnx")
    inputs = write(path, *kind, attributes)
    names = CoreNames(None, list(inputs), ["map"])
    stride, pad, dilation = (
        attributes.get(name, [default])[0]
        for name, default in (("strides", 1), ("pads", 0), ("dilations", 1))
    )
    sides = [(side + 2 * pad - 2 * dilation - 1) // stride + 1 for side in (10, 12)]
    arrays = {
        name: np.random.randn(2, channels, *((10, 12) if name == "images" else sides)).astype("f")
        for name, channels in inputs.items()
    }
    found = [ENGINES[engine](path, names, 1).run(arrays)["map"] for engine in ENGINES]
    assert np.abs(found[0]).max() > 1
    np.testing.assert_allclose(*found, atol=1e-4)
