"""A core: a module from tensors to tensors, and the names of what goes in and comes out."""

from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(frozen=True)
class Core:
    """A part of a detector that an exporter can trace.

    A shape is a tuple with one entry per dimension: a number; the name of a dimension that varies
    (``"batch"``, ``"height"``); or None, a size that the weights fix. Equal names are equal sizes.

    Attributes:
        module (nn.Module): takes the inputs in order, one tensor each, and gives a tuple of the
            outputs in order. It shares its weights with the model, and is in eval mode.
        inputs (dict[str, tuple]): name → shape.
        outputs (dict[str, tuple]): name → shape.
        multiples (dict[str, int]): name of a dimension → what its size is a multiple of.
        sizes (dict[str, int]): name of a dimension → a small size, for an example.
    """

    module: nn.Module
    inputs: dict
    outputs: dict
    multiples: dict = field(default_factory=dict)
    sizes: dict = field(default_factory=dict)

    def example(self, **sizes):
        """Random inputs.

        Args:
            sizes (int): name of a dimension → its size; others are as in :attr:`sizes`.

        Returns:
            dict[str, Tensor]: name → tensor, on the device of the weights.
        """
        sizes = {**self.sizes, **sizes}
        weights = next(self.module.parameters(), torch.empty(0))
        return {
            name: torch.randn([sizes.get(d, d) for d in shape], device=weights.device)
            for name, shape in self.inputs.items()
        }

    def dimensions(self):
        """Names of the dimensions of the inputs that vary.

        Returns:
            list[str]: each once, in the order of the inputs.
        """
        return list(dict.fromkeys(d for s in self.inputs.values() for d in s if isinstance(d, str)))

    def dynamic_axes(self):
        """The dimensions that vary, in the form that ``torch.onnx.export`` takes.

        Returns:
            dict[str, dict[int, str]]: name of an input or output → index → name of the dimension.
        """
        return {
            name: {i: d for i, d in enumerate(shape) if isinstance(d, str)}
            for name, shape in {**self.inputs, **self.outputs}.items()
        }

    def __call__(self, tensors):
        """Run the module.

        Args:
            tensors (dict[str, Tensor]): one for each input.

        Returns:
            dict[str, Tensor]: one for each output.
        """
        found = self.module(*(tensors[name] for name in self.inputs))
        return dict(zip(self.outputs, found, strict=True))


@dataclass(frozen=True)
class CoreSet:
    """All that ``blendprune.runtime`` needs of a model.

    Attributes:
        family (str): name of the family of detectors, a key of ``FAMILIES``.
        cores (dict[str, Core]): ``"image"`` first; further cores run on regions of it.
        settings (dict): plain data, for JSON: thresholds, strides, anchors and the like.
    """

    family: str
    cores: dict
    settings: dict
