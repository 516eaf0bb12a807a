"""``torch.func.functional_call``: upstream's names of the norms of a ``BasicBlock``.

Replaced: the function, and its older form in ``torch.nn.utils.stateless``, by one that calls it.
Under the overlay a state dict has upstream's names (``conv1.norm.weight``), and the module is
called ``norm1``. torch looks tensors up by the names of modules, so ``functional_call(model,
model.state_dict(), inputs)`` needs the latter.

Set, not wrapped by wrapt: ``torch.compile`` follows a plain function.
"""

import functools

from torch.nn.utils import stateless

from ..structure import BLOCK_NORMS
from ._patch import Patch
from .basic_block import SeparateNorms


def rename(model, tensors):
    """Name tensors as the modules of a model are named.

    Args:
        model (nn.Module): any model.
        tensors (dict[str, Tensor]): with the names of a state dict or of ``named_parameters``.

    Returns:
        dict[str, Tensor]: a new one.
    """
    names = {
        f"{prefix}{conv}.norm": f"{prefix}{norm}"
        for path, module in model.named_modules()
        if isinstance(module, SeparateNorms)
        for prefix in [f"{path}." if path else ""]
        for norm, conv in BLOCK_NORMS.items()
        if norm in module._modules
    }
    renamed = {}
    for key, value in tensors.items():
        owner, dot, leaf = key.rpartition(".")
        renamed[f"{names.get(owner, owner)}{dot}{leaf}"] = value
    return renamed


def _renaming(upstream):
    @functools.wraps(upstream)
    def functional_call(module, tensors, *args, **kwargs):
        if isinstance(tensors, dict):
            tensors = rename(module, tensors)
        elif isinstance(tensors, (list, tuple)):
            tensors = [rename(module, part) for part in tensors]
        return upstream(module, tensors, *args, **kwargs)

    return functional_call


def _install(module, edits):
    both = (module.functional_call, stateless.functional_call)
    edits.rebind(module, [(upstream, _renaming(upstream)) for upstream in both])


PATCHES = [
    Patch(
        name="call-with-state-dict",
        module="torch.func",
        watches=("functional_call",),
        digests=(),
        install=_install,
    )
]
