"""What an export wrote, as plain data and as a table."""

from dataclasses import asdict, dataclass, field
from typing import Any

from tabulate import tabulate


@dataclass(frozen=True)
class ExportedCore:
    """One file.

    Attributes:
        core (str): name of the core, for example ``"image"``.
        file (str): path.
        bytes (int): size on disk, weights in a file beside it included.
        opset (int): version of ONNX's operators.
        inputs (dict[str, list]): name → shape; a name in a shape is a dimension that varies.
        outputs (dict[str, list]): the same.
        difference (float): the largest one to PyTorch, relative to the largest number of an output;
            of int8, before it is quantized.
        int8 (dict): empty for a float file; else what
            :func:`blendprune.deployment.export.int8.quantize_file` returns.
    """

    core: str
    file: str
    bytes: int
    opset: int
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    difference: float
    int8: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """What :func:`blendprune.export` wrote.

    Attributes:
        family (str): name of the family of detectors.
        cores (list[ExportedCore]): in the order of the cores; the first one has the settings.
    """

    family: str
    cores: list[ExportedCore]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def exported_table(exported):
    """Draw what was written::

        file        core      MB    opset  inputs                              outputs    difference
        ----------  ------  ----  -------  --------------------------------  ---------  ------------
        model.onnx  image   46.6       20  images (batch, 3, height, width)         21       3.4e-06

    Of an int8 file the difference is that of the float file that it was made from; a line under the
    table has the error that int8 adds.

    Args:
        exported (Exported): from :func:`blendprune.export`.

    Returns:
        str: several lines, without a trailing line break.
    """
    rows = [
        (
            core.file,
            core.core,
            f"{core.bytes / 1e6:.1f}",
            core.opset,
            "\n".join(f"{name} ({', '.join(map(str, s))})" for name, s in core.inputs.items()),
            len(core.outputs),
            f"{core.difference:.1e}",
        )
        for core in exported.cores
    ]
    lines = [_int8_line(core) for core in exported.cores if core.int8]
    difference = "difference before int8" if lines else "difference"
    headers = ("file", "core", "MB", "opset", "inputs", "outputs", difference)
    align = ("left", "left", "right", "right", "left", "right", "right")
    return "\n".join([tabulate(rows, headers, disable_numparse=True, colalign=align), *lines])


def _int8_line(core):
    facts = core.int8
    worst = max(facts["errors"], key=facts["errors"].get)
    return (
        f"{core.core}: int8 from {facts['inputs']} inputs, {len(facts['float'])} of "
        f"{facts['layers']} layers in float, {worst} has the largest error "
        f"({facts['errors'][worst]:.2g} of its variance)"
    )
