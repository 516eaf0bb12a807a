"""A file of a single layer, to time it in an engine."""

import warnings

import torch

from ..cores.metadata import CoreNames
from ..extra import need

_OPSET = 18


def write_layer(layer, x, path):
    """Write one layer as ONNX, for the shape of one tensor.

    torch.onnx's older exporter takes hundredths of a second for it, ``torch.export`` seconds.

    Args:
        layer (nn.Module): a conv, a linear or a norm, in eval mode.
        x (Tensor): what it is called with.
        path (str): of the file; what is there is replaced.

    Returns:
        CoreNames: of the tensors.

    Raises:
        DeployError: the package onnx is missing.
    """
    need("timing in an engine", "onnx")
    names = CoreNames(None, ["x"], ["y"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            layer.cpu(),
            (x.cpu(),),
            path,
            input_names=names.inputs,
            output_names=names.outputs,
            opset_version=_OPSET,
            dynamo=False,
        )
    return names
