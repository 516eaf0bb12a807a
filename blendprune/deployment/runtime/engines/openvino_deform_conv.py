"""Deformable convs for OpenVINO, which has the operator, but does not read it from ONNX files."""

import numpy as np


def read_deform_convs(core):
    """Let a core of OpenVINO read ``DeformConv``.

    Args:
        core (openvino.Core): that reads the file.
    """
    from openvino.frontend.onnx import ConversionExtension

    core.add_extension(ConversionExtension("DeformConv", "", _convert))


def _convert(node):
    """The operator of ONNX (opset 19) in operators of OpenVINO."""
    from openvino import opset8 as operators

    image, weight, offset, *rest = map(node.get_input, range(node.get_input_size()))
    pads = node.get_attribute("pads", [0, 0, 0, 0])
    found = operators.deformable_convolution(
        image,
        offset,
        weight,
        node.get_attribute("strides", [1, 1]),
        pads[:2],
        pads[2:],
        node.get_attribute("dilations", [1, 1]),
        *rest[1:],
        group=node.get_attribute("group", 1),
        deformable_group=node.get_attribute("offset_group", 1),
        # What lies outside of the image counts as zero, as in ONNX.
        bilinear_interpolation_pad=True,
    )
    if rest:
        shape = operators.constant(np.array([1, -1, 1, 1], np.int64))
        found = operators.add(found, operators.reshape(rest[0], shape, special_zero=False))
    return found.outputs()
