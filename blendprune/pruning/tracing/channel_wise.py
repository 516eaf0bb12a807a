"""Operators of a user's own that leave every channel what it is."""

from typing import TypeVar

import torch

from ...errors import ConfigError

Operator = TypeVar("Operator", str, type[torch.autograd.Function])

_registered: set[str] = set()


def register_channel_wise(operator: Operator) -> Operator:
    """Say that an operator treats every channel alone: its channels may be pruned.

    Channels are dimension 1. Channel c of the output depends on channel c of the inputs only.

    Args:
        operator (str | type): the name of a node of the autograd graph (``"MyScaleBackward"``, as
            ``tensor.grad_fn.name()`` gives it and as the reason ``unknown operator …`` names it),
            or a subclass of ``torch.autograd.Function``.

    Returns:
        str | type: ``operator``, so that it works as a decorator.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(operator, str) and operator:
        _registered.add(operator)
    elif isinstance(operator, type) and issubclass(operator, torch.autograd.Function):
        _registered.add(f"{operator.__name__}Backward")
    else:
        raise ConfigError(
            f"register_channel_wise got {operator!r}: pass a torch.autograd.Function or the name "
            "of an autograd node, for example 'MyScaleBackward'."
        )
    return operator


def is_registered(operator):
    """Whether :func:`register_channel_wise` named an operator.

    Args:
        operator (str): the name of a node of the autograd graph.
    """
    return operator in _registered
