"""The tensor core of a detector: the parts that map tensors to tensors by convs and linears.

Everything else stays upstream's: the preparation of images, box decoding, NMS, pasting of masks.
The parts are found from what a forward calls: the outermost modules whose arguments and results
hold nothing but tensors, such as the backbone and the heads. detectron2's mask, keypoint and
semantic heads also decode, but have a method ``layers`` that maps tensors to tensors.
"""

import contextlib
import functools
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ..pruning.tracing.hooks import forward_hooks
from ..pruning.tracing.layer_kinds import is_prunable_layer


class Part(NamedTuple):
    """A method of a module that maps tensors to tensors.

    Attributes:
        module (nn.Module): the owner.
        method (str): ``"forward"`` or ``"layers"``.
    """

    module: nn.Module
    method: str

    def wrap(self, wrapper):
        """Put a wrapper around the method, on this module alone.

        Args:
            wrapper (Callable): from the bound method to what replaces it.
        """
        # Not nn.Module's own setattr, which would register a compiled method as a child.
        vars(self.module)[self.method] = wrapper(getattr(self.module, self.method))


class FoundParts(NamedTuple):
    """What :class:`PartFinder` finds.

    Attributes:
        parts (list[Part]): in the order of their first call; none contains another.
        modules (set[nn.Module]): that run in a part.
    """

    parts: list
    modules: set


@dataclass
class _Call:
    part: Part
    tensors: bool
    children: list = field(default_factory=list)

    def modules(self):
        found = {self.part.module}
        return found.union(*(child.modules() for child in self.children))


class PartFinder:
    """Finds the parts of a model that are made of convs and linears.

    Args:
        model (nn.Module): in eval mode.
        run (Callable): runs the model on an example, in all ways that inference has.
    """

    def __init__(self, model, run):
        self._model, self._calls = model, _record(model, run)

    def __call__(self, refused=()):
        """The core.

        Args:
            refused (Iterable[nn.Module]): no parts, but parts may be inside them.

        Returns:
            FoundParts: empty if the model has no such parts.
        """
        refused = {self._model, *refused}
        while True:
            parts, inside = {}, set()
            for call in self._calls:
                _collect(call, refused, parts, inside)
            # A module that is a part in one call and none in another is none.
            mixed = {part.module for part in parts if _has_other_call(self._calls, part)} - refused
            if not mixed:
                return FoundParts(list(parts), inside)
            refused |= mixed


def _collect(call, refused, parts, inside):
    if call.part.module not in refused and call.tensors:
        modules = call.modules()
        if any(map(is_prunable_layer, modules)):
            parts[call.part] = None
            inside |= modules
        return
    for child in call.children:
        _collect(child, refused, parts, inside)


def _has_other_call(calls, part):
    return any(
        (call.part == part and not call.tensors) or _has_other_call(call.children, part)
        for call in calls
    )


def _record(model, run):
    """The calls that are not inside other calls, each with those inside it."""
    top = _Call(Part(model, "forward"), False)
    running = [top]

    def enter(part, args, kwargs):
        call = _Call(part, _only_tensors((args, kwargs)))
        running[-1].children.append(call)
        running.append(call)

    def leave(output):
        call = running.pop()
        call.tensors = call.tensors and _only_tensors(output)

    def forward_begins(module, args, kwargs):
        enter(Part(module, "forward"), args, kwargs)

    def forward_ends(module, args, output):
        leave(output)

    modules = list(model.modules())
    with (
        torch.no_grad(),
        forward_hooks(modules, forward_begins, before=True, with_kwargs=True),
        forward_hooks(modules, forward_ends, always_call=True),
        _watched_layers(modules, enter, leave),
    ):
        run()
    return top.children


@contextlib.contextmanager
def _watched_layers(modules, enter, leave):
    """Tell of the calls of the methods ``layers`` of detectron2's heads."""

    def watched(module, method):
        @functools.wraps(method)
        def run(*args, **kwargs):
            output = None
            enter(Part(module, "layers"), args, kwargs)
            try:
                output = method(*args, **kwargs)
                return output
            finally:
                leave(output)

        return run

    # Of most modules, ``layers`` is a list of modules or a number.
    owners = [m for m in modules if callable(getattr(type(m), "layers", None))]
    for module in owners:
        vars(module)["layers"] = watched(module, module.layers)
    try:
        yield
    finally:
        for module in owners:
            del vars(module)["layers"]


def _only_tensors(value):
    """Whether a value holds tensors, numbers, and modules to apply, and nothing else."""
    leaves = tree_leaves(value)
    known = (torch.Tensor, bool, int, float, str, type(None), nn.Module)
    return all(isinstance(leaf, known) for leaf in leaves)
