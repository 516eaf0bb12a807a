"""``detectron2.modeling.backbone.resnet.BasicBlock``: norms as separate modules.

Replaced: ``forward``. Extended: ``__init__`` moves each conv's ``norm`` to ``norm1``, ``norm2`` and
(with a projection shortcut) ``norm3``; loading accepts the key names of hand-patched forks
(``norm1.weight``) beside upstream's. State dicts keep upstream's names (``conv1.norm.weight``). It
reaches ResNet-18 and ResNet-34 of detectron2.

Why here: Torch-Pruning maps a module to the gradient function of its output, so a conv that runs
its own norm hides the norm. Left alone: bottleneck blocks, and subclasses with a ``forward`` or an
``__init__`` of their own, which may rely on upstream's structure. :func:`blendprune.prunable`
exposes their norms while a graph is traced.

A block with separate norms is of a subclass that has what it needs, :class:`SeparateNorms`. So it
keeps working when the overlay is reverted, also in the middle of a forward or a copy.

``forward`` is set, not wrapped: ``torch.jit.script`` reads the source behind ``__wrapped__``.
"""

import copy
import functools
import inspect
import types

import torch
import torch.nn.functional as F

from ..structure import BLOCK_NORMS, separate_norms
from ._patch import Patch
from ._provenance import calls, is_upstreams

# Forwards of a block's own class that separate norms take the place of; others are foreign.
_KNOWN = []
# A foreign forward, and whether it calls the overlay's; by id, since proxies compare as equal.
_foreign = {}


def forward(self, x):
    """Compute conv1 norm1 relu conv2 norm2 (+ norm3(shortcut(x)) or x) relu.

    Args:
        x (Tensor): shape (N, in_channels, H, W).

    Returns:
        Tensor: shape (N, out_channels, H / stride, W / stride).
    """
    # The norms of a block that does not separate them run in the convs.
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


class SeparateNorms:
    """What a block with separate norms has in front of its own class, with the overlay or not.

    Attributes:
        plain (type): the class that the block was made of.
    """

    plain = None

    def __init_subclass__(cls):
        """Keep the hooks of the block's class from seeing one more subclass."""

    def forward(self, x):
        """Compute conv1 norm1 relu conv2 norm2 (+ norm3(shortcut(x)) or x) relu."""
        if not torch.jit.is_scripting():
            if "norm1" not in self._modules:
                # A wrapper of this method, on a block that has upstream's structure by now.
                return forward(self, x)
            if any(getattr(conv, "norm", None) is not None for conv in self.children()):
                separate_norms(self)  # a conv was given a norm of its own
            current = self.plain.forward
            if not any(current is known for known in _KNOWN) and is_foreign(self.plain):
                return run_foreign(self, x)
        out = F.relu_(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        if self.shortcut is not None:
            shortcut = self.shortcut(x)
            if hasattr(self, "norm3"):
                shortcut = self.norm3(shortcut)
        else:
            shortcut = x
        out += shortcut
        return F.relu_(out)

    def __setattr__(self, name, value):
        if name == "forward" and not calls(value, SeparateNorms.forward):
            _join(self)  # it is written for upstream's structure
            setattr(self, name, value)
            return
        super().__setattr__(name, value)
        if name in BLOCK_NORMS.values() and getattr(value, "norm", None) is not None:
            separate_norms(self)  # a new conv brings its own norm

    def state_dict(self, *args, **kwargs):
        """Return the state dict with upstream's names in its keys and version metadata."""
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        destination = super().state_dict(*args, **kwargs)
        metadata = getattr(destination, "_metadata", {})
        for norm, conv in BLOCK_NORMS.items():
            if norm in self._modules:
                old, new = f"{prefix}{norm}", f"{prefix}{conv}.norm"
                _rename(destination, prefix, f"{old}.", f"{new}.")
                _rename(metadata, prefix, old, new)
        return destination

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        accept_names(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __reduce_ex__(self, protocol):
        # Pickle finds a class by its name, and this one has the name of its plain class.
        return (new_block, (self.plain,), *super().__reduce_ex__(protocol)[2:])


@functools.cache
def separated(plain):
    """Return the class of the blocks of class ``plain`` that have separate norms."""
    names = ("__module__", "__qualname__", "__doc__")
    # A class that a LazyConfig's file defines knows no module.
    names = {name: getattr(plain, name) for name in names if hasattr(plain, name)}
    names["plain"] = plain
    bases = (SeparateNorms, plain)
    return types.new_class(plain.__name__, bases, exec_body=lambda space: space.update(names))


def new_block(plain):
    """Make an empty block with separate norms; unpickling and copying fill it."""
    kind = separated(plain)
    return kind.__new__(kind)


def is_foreign(plain):
    """Whether others patched the forward of a class after its blocks were built."""
    value = inspect.getattr_static(plain, "forward")
    if value is forward or is_upstreams(plain, "forward", value):
        _KNOWN.append(value)
        return False
    return True


def run_foreign(block, x):
    """Run the forward that others put in place of the overlay's, or on top of it.

    One that calls the overlay's gets the block. Any other one expects upstream's structure, and
    gets a shallow copy of the block that has it.
    """
    value = inspect.getattr_static(block.plain, "forward")
    if id(value) not in _foreign:
        _foreign[id(value)] = value, calls(value, forward)
    if not _foreign[id(value)][1]:
        block = _joined(block)
    return value.__get__(block, type(block))(x)


def _joined(block):
    twin = block.plain.__new__(block.plain)
    vars(twin).update(vars(block))
    modules = dict(block._modules)
    for norm, conv in BLOCK_NORMS.items():
        if norm in modules:
            modules[conv] = copy.copy(modules[conv])
            vars(modules[conv])["_modules"] = {**modules[conv]._modules, "norm": modules.pop(norm)}
    vars(twin)["_modules"] = modules
    return twin


def _join(block):
    """Give a block its plain class back, and its convs their norms."""
    block.__class__ = block.plain
    for norm, conv in BLOCK_NORMS.items():
        if norm in block._modules:
            block._modules[conv].norm = block._modules.pop(norm)


def load_from_state_dict(wrapped, instance, args, kwargs):
    """Load under upstream's names or those of hand-patched forks."""
    accept_names(instance, *args[:2])
    return wrapped(*args, **kwargs)


def accept_names(block, state, prefix):
    """Rename keys of a state dict in place to the names of a block's own modules.

    Args:
        block (BasicBlock): with separate norms or not.
        state (dict): with upstream's names or those of hand-patched forks.
        prefix (str): of the block's keys.
    """
    for norm, conv in BLOCK_NORMS.items():
        names = f"{prefix}{conv}.norm.", f"{prefix}{norm}."
        old, new = names if norm in block._modules else reversed(names)
        for key in [key for key in state if key.startswith(old)]:
            state[new + key[len(old) :]] = state.pop(key)


def _rename(mapping, prefix, old, new):
    """Rename keys that start with ``old``; keep the order of all keys below ``prefix``."""
    for key in [key for key in mapping if key.startswith(prefix)]:
        renamed = new + key[len(old) :] if key.startswith(old) else key
        mapping[renamed] = mapping.pop(key)


def _install(module, edits):
    block = module.BasicBlock

    def init(wrapped, instance, args, kwargs):
        wrapped(*args, **kwargs)
        kind = type(instance)
        own = {_holder(kind, name) for name in ("__init__", "forward")}
        if own == {block} and kind.forward is forward and separate_norms(instance):
            instance.__class__ = separated(kind)

    edits.wrap(block, "__init__", init)
    edits.replace(block, "forward", forward)
    edits.wrap(block, "_load_from_state_dict", load_from_state_dict)


def _holder(kind, name):
    return next(base for base in kind.__mro__ if name in vars(base))


PATCHES = [
    Patch(
        name="separate-basic-block-norms",
        module="detectron2.modeling.backbone.resnet",
        watches=("BasicBlock",),
        digests=("a1a1147775d41da0",),
        replaces=("BasicBlock.forward",),
        install=_install,
    )
]
