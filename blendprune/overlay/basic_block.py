"""``detectron2.modeling.backbone.resnet.BasicBlock``: norms as separate modules.

Replaced: ``forward``. Extended: ``__init__`` moves each conv's ``norm`` to ``norm1``, ``norm2`` and
(with a projection shortcut) ``norm3``. ``state_dict`` and loading keep upstream's key names
(``conv1.norm.weight``); loading also accepts those of hand-patched forks (``norm1.weight``). It
reaches ResNet-18 and ResNet-34 of detectron2 and every subclass of the block.

Why here: Torch-Pruning maps a module to the gradient function of its output, so a conv that runs
its own norm hides the norm. Left alone: bottleneck blocks. :func:`blendprune.prunable` exposes
their norms while a graph is traced.

``forward`` is set, not wrapped: ``torch.jit.script`` reads the source behind ``__wrapped__``.
"""

import gc

import torch.nn.functional as F

from ..structure import BLOCK_NORMS
from ._patch import Patch

_NORM_OF = {conv: norm for norm, conv in BLOCK_NORMS.items()}


def forward(self, x):
    """Compute conv1 norm1 relu conv2 norm2 (+ norm3(shortcut(x)) or x) relu.

    Args:
        x (Tensor): shape (N, in_channels, H, W).

    Returns:
        Tensor: shape (N, out_channels, H / stride, W / stride).
    """
    # Blocks built before the patch have their norms in the convs; with norm "" there are none.
    out = self.conv1(x)
    if hasattr(self, "norm1"):
        out = self.norm1(out)
    out = F.relu_(out)
    out = self.conv2(out)
    if hasattr(self, "norm2"):
        out = self.norm2(out)

    if self.shortcut is not None:
        shortcut = self.shortcut(x)
        if hasattr(self, "norm3"):
            shortcut = self.norm3(shortcut)
    else:
        shortcut = x

    out += shortcut
    out = F.relu_(out)
    return out


def init(wrapped, instance, args, kwargs):
    """Build upstream's block, then separate its norms."""
    wrapped(*args, **kwargs)
    separate_norms(instance)


def separate_norms(block):
    """Make each conv's norm a child of the block, right after the conv.

    The position matters: optimizers number parameters in module order, and resuming relies on it.
    """
    children = list(block._modules.items())
    block._modules.clear()
    for name, child in children:
        block._modules[name] = child
        norm = getattr(child, "norm", None) if name in _NORM_OF else None
        if norm is not None:
            child.norm = None
            block._modules[_NORM_OF[name]] = norm


def fold_norms(block):
    """Undo :func:`separate_norms`."""
    for norm, conv in BLOCK_NORMS.items():
        if norm in block._modules:
            block._modules[conv].norm = block._modules.pop(norm)


def state_dict(wrapped, instance, args, kwargs):
    """Return the state dict with upstream's names in its keys and version metadata."""
    prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
    destination = wrapped(*args, **kwargs)
    metadata = getattr(destination, "_metadata", {})
    for norm, conv in BLOCK_NORMS.items():
        if norm in instance._modules:
            old, new = f"{prefix}{norm}", f"{prefix}{conv}.norm"
            _rename(destination, prefix, f"{old}.", f"{new}.")
            _rename(metadata, prefix, old, new)
    return destination


def load_from_state_dict(wrapped, instance, args, kwargs):
    """Accept upstream's names and those of hand-patched forks, in patched and other blocks."""
    state, prefix = args[:2]
    for norm, conv in BLOCK_NORMS.items():
        names = f"{prefix}{conv}.norm.", f"{prefix}{norm}."
        old, new = names if norm in instance._modules else reversed(names)
        for key in [key for key in state if key.startswith(old)]:
            state[new + key[len(old) :]] = state.pop(key)
    return wrapped(*args, **kwargs)


def _rename(mapping, prefix, old, new):
    """Rename keys that start with ``old``; keep the order of all keys below ``prefix``."""
    for key in [key for key in mapping if key.startswith(prefix)]:
        renamed = new + key[len(old) :] if key.startswith(old) else key
        mapping[renamed] = mapping.pop(key)


def _install(module, edits):
    block = module.BasicBlock
    edits.on_undo(lambda: _fold_living(block))
    edits.wrap(block, "__init__", init)
    edits.set(block, "forward", forward)
    edits.wrap(block, "state_dict", state_dict)
    edits.wrap(block, "_load_from_state_dict", load_from_state_dict)


def _fold_living(block):
    """Fold the norms of existing blocks, because upstream's forward would skip them."""
    for obj in gc.get_objects():
        if issubclass(type(obj), block):
            fold_norms(obj)


PATCHES = [
    Patch(
        name="separate-basic-block-norms",
        module="detectron2.modeling.backbone.resnet",
        watches=("BasicBlock",),
        digests=("a1a1147775d41da0",),
        install=_install,
    )
]
