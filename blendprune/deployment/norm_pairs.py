"""Which batch norm may be folded into which conv, from what a forward reads.

A norm can be folded if it is the only reader of the conv's output, and if the conv is the only one
that feeds it. A conv that runs on several levels with one norm qualifies. A conv whose levels have
norms of their own does not.
"""

import contextlib
from typing import NamedTuple

import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.ops.misc import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from ..pruning.cost.formulas import operator_name
from ..pruning.tracing.hooks import forward_hooks
from ..pruning.tracing.layer_kinds import is_deformable

_OPERATORS = ("aten::convolution", "torchvision::deform_conv2d")
# A subclass with a forward of its own may do more than normalise.
_NORM_FORWARDS = {
    cls.forward
    for cls in (
        nn.modules.batchnorm._BatchNorm,
        nn.SyncBatchNorm,
        NaiveSyncBatchNorm,
        FrozenBatchNorm2d,
        TorchvisionFrozenBatchNorm2d,
    )
}


class NormPair(NamedTuple):
    """A conv and the norm that alone reads what it gives.

    Attributes:
        conv (nn.Module): a conv, transposed or deformable too.
        norm (nn.Module): a batch norm with fixed statistics.
    """

    conv: nn.Module
    norm: nn.Module


def find_norm_pairs(model, run):
    """Find the convs and norms that can become one conv.

    Args:
        model (nn.Module): in eval mode, outside the prunable view.
        run (Callable): runs the model on an example, in all ways that inference has.

    Returns:
        list[NormPair]: in the order of the model. No module is in two pairs.
    """
    convs = [module for module in model.modules() if _takes_a_norm(module)]
    norms = [module for module in model.modules() if is_foldable_norm(module)]
    reads = _Reads(model, convs, norms)
    with torch.no_grad(), reads.watching(), reads:
        run()
    return [pair for conv in convs if (pair := reads.pair_of(conv)) is not None]


def is_foldable_norm(module):
    """Whether a module scales and shifts each channel by fixed numbers in eval mode."""
    return (
        type(module).forward in _NORM_FORWARDS
        and getattr(module, "running_mean", None) is not None
        and not _has_hooks(module)
    )


def _takes_a_norm(module):
    known = isinstance(module, nn.modules.conv._ConvNd) or is_deformable(module)
    # A compiled DeformConv of detectron2 takes no bias. A computed weight is no parameter.
    return known and hasattr(module, "bias") and "weight" in module._parameters


def _has_hooks(module):
    # These may read or change what the module gives.
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Reads(TorchDispatchMode):
    """Records who reads the outputs and the parameters of convs and norms."""

    def __init__(self, model, convs, norms):
        super().__init__()
        self._modules = list(model.modules())
        self._convs, self._shared = {}, set()
        for conv in convs:
            if id(conv.weight) in self._convs:
                self._shared |= {conv, self._convs[id(conv.weight)]}
            self._convs[id(conv.weight)] = conv
        # id → owner, of parameters and buffers that only their own module reads.
        self._owners = {id(t): module for module in (*convs, *norms) for t in _tensors(module)}
        self._read_by_others = set()
        # Outputs are kept, so that no two have the same id.
        self._outputs, self._kept = {}, []
        self._readers, self._norm_inputs = {}, {norm: [] for norm in norms}
        self._running = []

    @contextlib.contextmanager
    def watching(self):
        """Know which module is running."""

        def enter(module, inputs):
            self._running.append(module)
            if module in self._norm_inputs:
                self._norm_inputs[module].append(id(inputs[0]))

        def leave(module, inputs, output):
            self._running.pop()

        with (
            forward_hooks(self._modules, enter, before=True),
            forward_hooks(self._modules, leave, always_call=True),
        ):
            yield

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        conv, reader = self._conv_of(func, args), self._running[-1] if self._running else None
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self._note_read(tensor, conv, reader)
        result = func(*args, **kwargs)
        if conv is not None:
            self._kept.append(result)
            self._outputs.setdefault(conv, []).append(id(result))
            self._readers[id(result)] = set()
        return result

    def pair_of(self, conv):
        """The conv with its norm, or None."""
        outputs = self._outputs.get(conv, [])
        readers = set().union(*(self._readers[output] for output in outputs))
        if len(readers) != 1 or conv in self._shared or _has_hooks(conv):
            return None
        [norm] = readers
        if norm not in self._norm_inputs or sorted(self._norm_inputs[norm]) != sorted(outputs):
            return None
        return None if self._read_by_others & {conv, norm} else NormPair(conv, norm)

    def _conv_of(self, func, args):
        if operator_name(func) not in _OPERATORS:
            return None
        return self._convs.get(id(args[1]))

    def _note_read(self, tensor, conv, reader):
        if id(tensor) in self._readers:
            self._readers[id(tensor)].add(reader)
        owner = self._owners.get(id(tensor))
        # Outside all modules, buffers are saved and restored.
        if owner is not None and reader is not None and owner not in (conv, reader):
            self._read_by_others.add(owner)


def _tensors(module):
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
