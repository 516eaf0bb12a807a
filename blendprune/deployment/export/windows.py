"""Swin's windows in a form that an exporter traces for any number of images."""

import types

try:
    from detectron2.modeling.backbone.swin import SwinTransformerBlock
except ImportError:  # detectron2 0.6 has no Swin
    SwinTransformerBlock = ()


def trace_windows(model):
    """Let the blocks of a Swin put windows together without computing the number of images.

    Upstream divides floats for it, which fixes the number that a trace sees. The blocks run
    upstream's forward with another ``window_reverse``.

    Args:
        model (nn.Module): a copy; its blocks are changed.

    Returns:
        nn.Module: the model.
    """
    for block in model.modules():
        if isinstance(block, SwinTransformerBlock):
            forward = type(block).forward
            names = {**forward.__globals__, "window_reverse": _together}
            own = types.FunctionType(forward.__code__, names, closure=forward.__closure__)
            block.forward = types.MethodType(own, block)
    return model


def _together(windows, side, height, width):
    """Windows (n, side, side, C) of images → (N, height, width, C)."""
    channels = windows.shape[-1]
    x = windows.view(-1, height // side, width // side, side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)
