"""A core as an ONNX model: traced, its names made readable, saved."""

import ast
import os
import warnings
from collections import Counter

import torch

from ...errors import DeployError, error_line
from ..extra import need

# The first that has what every core needs: deformable convs (19), and resizing as PyTorch does it.
_OPSET = 20
# Sides to trace with, in pixels or cells: each level of a pyramid must keep sides above 1, which
# torch.export would take for a constant.
_SIDES = (9 * 32, 11 * 32, 13 * 32, 15 * 32)
_LARGEST = 2**31 - 2**24  # of a file of ONNX, less what is not weights


def to_onnx(core, name):
    """Trace a core.

    Args:
        core (Core): float32, on the CPU.
        name (str): of the core, for messages.

    Returns:
        onnxscript.ir.Model: its inputs and outputs have the names and dimensions of the core.

    Raises:
        DeployError: PyTorch cannot trace or translate it, or a package is missing.
    """
    need("the export to ONNX", "onnx", "onnxscript")
    sizes = trace_sizes(core)
    inputs = core.example(**sizes)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.export.export(
                core.module,
                tuple(inputs.values()),
                dynamic_shapes=_dynamic(core, sizes),
                strict=False,
            )
            program = torch.onnx.export(
                traced,
                dynamo=True,
                opset_version=_OPSET,
                input_names=list(core.inputs),
                output_names=list(core.outputs),
                verbose=False,
            )
    except Exception as error:  # of torch.export, torch.onnx, onnxscript
        raise DeployError(
            f"PyTorch {torch.__version__} cannot export the core {name!r} to ONNX "
            f"({error_line(_cause(error))}): install a newer PyTorch, or replace the layer that "
            "this names"
        ) from error
    model = program.model
    _name_dimensions(model.graph, [*core.inputs.values(), *core.outputs.values()])
    _name_nodes(model.graph)
    return model


def save(model, path):
    """Write a model; its weights go into a file beside it if one file cannot hold them.

    Args:
        model (onnxscript.ir.Model): from :func:`to_onnx`.
        path (str): of the file.
    """
    from onnxscript import ir

    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    ir.save(
        model, path, external_data=None if size < _LARGEST else f"{os.path.basename(path)}.data"
    )


def trace_sizes(core):
    """The sizes that a core is traced with.

    Args:
        core (Core): to trace.

    Returns:
        dict[str, int]: name of a dimension → size.
    """
    names, sides = core.dimensions(), {}
    for side, name in zip(_SIDES, (n for n in names if core.multiples.get(n)), strict=False):
        multiple = core.multiples[name]
        sides[name] = max(2, -(-side // multiple)) * multiple
    return {name: sides.get(name, 5 if i else 3) for i, name in enumerate(names)}


def _dynamic(core, sizes):
    """The dimensions that vary, as ``torch.export.export`` takes them."""
    known = {}

    def dimension(name):
        multiple = core.multiples.get(name, 1)
        if name not in known:
            # torch.export wants to know that no map on the way has a side of 1. The operators of
            # ONNX do not depend on that, and the check of the file has smaller sizes.
            known[name] = torch.export.Dim(name, min=max(sizes[name] // multiple // 2, 2))
        return known[name] if multiple == 1 else multiple * known[name]

    return [
        {i: dimension(d) for i, d in enumerate(shape) if isinstance(d, str)}
        for shape in core.inputs.values()
    ]


def _cause(error):
    """What an exception of torch.onnx was raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _name_dimensions(graph, shapes):
    """Give inputs and outputs the dimensions of the core."""
    from onnxscript import ir

    for value, shape in zip([*graph.inputs, *graph.outputs], shapes, strict=True):
        sizes = [t if isinstance(t, int) else None for t in value.shape]
        named = [t if d is None else d for d, t in zip(shape, sizes, strict=True)]
        value.shape = ir.Shape(named)


def _name_nodes(graph):
    """Name each node after its module; drop the paths of this machine that PyTorch writes."""
    seen, outputs = Counter(), set(graph.outputs)
    for value in graph.inputs:
        value.metadata_props.clear()
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        name = f"{scopes[-2] if len(scopes) > 1 else ''}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in outputs:  # what a tracer wrote for its own dimensions
                value.shape = None
