"""Multi-head attention of detectron2's transformers, pruned by whole heads.

Covers ``Attention`` (ViT), ``MultiScaleAttention`` (MViT) and ``WindowAttention`` (Swin) of
``detectron2.modeling.backbone``. In each, a linear ``qkv`` outputs the queries, then the keys, then
the values of all heads, and a linear ``proj`` reads the heads. Pruning keeps the width of a head
and everything inside it (relative positions of ViT and MViT, pooling convs of MViT).
"""

import contextlib
import importlib

from torch import nn


def _classes():
    # Looked up by name, because detectron2 0.6 has none of them.
    for file, name in (("vit", "Attention"), ("mvit", "MultiScaleAttention")):
        with contextlib.suppress(ImportError, AttributeError):
            yield getattr(importlib.import_module(f"detectron2.modeling.backbone.{file}"), name)
    if WindowAttention is not nn.Module:
        yield WindowAttention


try:
    from detectron2.modeling.backbone.swin import WindowAttention
except ImportError:
    WindowAttention = nn.Module


class NarrowWindowAttention(WindowAttention):
    """A ``WindowAttention`` with fewer heads. It is only set as ``module.__class__``.

    Upstream's ``forward`` assumes that its input is as wide as all heads together. After ``qkv`` it
    only reads the input's shape, so it gets a placeholder of that width.
    """

    def forward(self, x, mask=None):
        """Compute attention within windows.

        Args:
            x (Tensor): (windows, positions, channels).
            mask (Tensor): (windows of an image, positions, positions) or None.

        Returns:
            Tensor: same shape as ``x``.
        """
        return self.proj(attend(self, self.qkv(x), x, mask))


_ATTENTIONS = tuple(_classes())


def is_attention(module):
    """Whether the module is one of the three classes, pruned or not."""
    return isinstance(module, _ATTENTIONS)


def head_width(attention):
    """Channels per head, equal for queries, keys and values."""
    return attention.proj.in_features // attention.num_heads


def attend(attention, qkv, x, *inputs, **options):
    """Run the part of an attention's ``forward`` between the linears ``qkv`` and ``proj``.

    Args:
        attention (nn.Module): one of the three classes, see :func:`is_attention`.
        qkv (Tensor): (…, 3 · heads · head width), the output of its ``qkv``.
        x (Tensor): (…, channels), the input of its ``forward``; only the shape is used.
        inputs, options: the other arguments of its ``forward``.

    Returns:
        Tensor: (…, heads · head width).
    """
    layers = attention._modules
    own = {name: layers[name] for name in ("qkv", "proj")}
    width = qkv.shape[-1] // 3
    try:
        layers["qkv"], layers["proj"] = _Given(qkv), _Through(width)
        placeholder = x[..., :1].detach().expand(*x.shape[:-1], width)
        return _upstream(type(attention)).forward(attention, placeholder, *inputs, **options)
    finally:
        layers.update(own)


class _Through(nn.Identity):
    def __init__(self, width):
        super().__init__()
        self.in_features = width


class _Given(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value


def _upstream(kind):
    return next(cls for cls in kind.__mro__ if cls in _ATTENTIONS)


def fit_heads(model):
    """Update head counts and classes after heads were removed.

    A block with its own ``num_heads`` (Swin) gets that of its attention. A ``WindowAttention`` with
    fewer heads becomes a :class:`NarrowWindowAttention`.

    Args:
        model (nn.Module): each attention has the right ``num_heads``.
    """
    for module in model.modules():
        inner = getattr(module, "attn", None)
        if is_attention(inner) and hasattr(module, "num_heads"):
            module.num_heads = inner.num_heads
        if type(module) is WindowAttention and module.proj.in_features < module.qkv.in_features:
            module.__class__ = NarrowWindowAttention
