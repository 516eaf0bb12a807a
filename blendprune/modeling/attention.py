"""Multi-head attention of detectron2's transformers, which loses whole heads.

Covers ``Attention`` (ViT), ``MultiScaleAttention`` (MViT) and ``WindowAttention`` (Swin) of
``detectron2.modeling.backbone``: one linear ``qkv`` whose outputs are queries, keys and values,
each of all heads in turn, and a linear ``proj`` that reads the heads. The width of a head stays,
and so does everything within it (relative positions of ViT and MViT, pooling convs of MViT).
"""

import contextlib
import importlib

import torch
from torch import nn


def _classes():
    # By name: detectron2 0.6 has none of them.
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
    """A ``WindowAttention`` that lost heads; only ``module.__class__`` is ever set to it.

    Upstream's ``forward`` takes the width of its input for that of all heads together. So it is
    shown its input at that width: once ``qkv`` is computed, it reads no more of it than the shape.
    """

    def forward(self, x, mask=None):
        """Attention within windows.

        Args:
            x (Tensor): (windows, positions, channels).
            mask (Tensor): (windows of an image, positions, positions) or None.

        Returns:
            Tensor: of the shape of ``x``.
        """
        return self.proj(attend(self, self.qkv(x), x, mask))


_ATTENTIONS = tuple(_classes())


def is_attention(module):
    """Whether the module is one of the three, whatever the number of its heads."""
    return isinstance(module, _ATTENTIONS)


def head_width(attention):
    """Channels of a head, the same in queries, keys and values."""
    return attention.proj.in_features // attention.num_heads


def attend(attention, qkv, x, *inputs, **options):
    """What lies between the linears ``qkv`` and ``proj`` of an attention, by its own ``forward``.

    Args:
        attention (nn.Module): for which :func:`is_attention` holds.
        qkv (Tensor): (…, 3 · heads · head width), what its ``qkv`` gave.
        x (Tensor): (…, channels), what its ``forward`` was called with; the shape alone counts.
        inputs, options: what else it was called with.

    Returns:
        Tensor: (…, heads · head width).
    """
    layers = attention._modules
    own = {name: layers[name] for name in ("qkv", "proj")}
    width = qkv.shape[-1] // 3
    try:
        layers["qkv"], layers["proj"] = _Given(qkv), _Through(width)
        shown = x[..., :1].detach().expand(*x.shape[:-1], width)
        return _upstream(type(attention)).forward(attention, shown, *inputs, **options)
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
    """Make numbers and classes agree with the heads that are left.

    Sets ``num_heads`` of a block that has its own (Swin's) to that of its attention, and lets a
    ``WindowAttention`` that lost heads run.

    Args:
        model (nn.Module): with ``num_heads`` of each attention right.
    """
    for module in model.modules():
        inner = getattr(module, "attn", None)
        if is_attention(inner) and hasattr(module, "num_heads"):
            module.num_heads = inner.num_heads
        if type(module) is WindowAttention and module.proj.in_features < module.qkv.in_features:
            module.__class__ = NarrowWindowAttention


class OneOperator(torch.autograd.Function):
    """What a function computes, as one node of the autograd graph, gradients included.

    The graph that Torch-Pruning follows knows no views: what a module does inside has to be one
    operator. ``backward`` computes the function anew, from the inputs that were kept.
    """

    @staticmethod
    def forward(ctx, run, owner, x, *parameters):
        """``run(x)``; ``parameters`` are all that it reads besides and that take gradients.

        ``owner`` is found again as ``grad_fn.owner``.
        """
        ctx.run, ctx.owner, ctx.parameters = run, owner, parameters
        ctx.save_for_backward(x)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx, grad):
        """Gradients of ``x`` and of the parameters that take any."""
        [x] = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = ctx.run(x)
        wanted = [t for t in (x, *ctx.parameters) if t.requires_grad]
        grads = iter(torch.autograd.grad(y, wanted, grad, allow_unused=True))
        own = [next(grads) if t.requires_grad else None for t in (x, *ctx.parameters)]
        return None, None, *own
