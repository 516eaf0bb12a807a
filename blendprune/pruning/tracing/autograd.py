"""The graph that autograd keeps, and operators in it that are our own."""

import torch


def ancestors(nodes, until=()):
    """All nodes that the given nodes depend on, and these nodes.

    Args:
        nodes (Iterable[torch.autograd.graph.Node | None]): where to start.
        until (Container): nodes at which the walk stops; they are part of the result.

    Returns:
        set[torch.autograd.graph.Node]: the nodes.
    """
    seen, stack = set(), list(nodes)
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if node not in until:
                stack += [source for source, _ in node.next_functions]
    return seen


def output_shape(grad_fn):
    """Shape of the first output of an operator."""
    return grad_fn._input_metadata[0].shape


class OneOperator(torch.autograd.Function):
    """What a function computes, as one node of the autograd graph, gradients included.

    Torch-Pruning's graph does not follow views: what a module does inside must be one operator.
    ``backward`` computes the function again from its kept input.
    """

    @staticmethod
    def forward(ctx, run, owner, x, *parameters):
        """Compute ``run(x)``.

        Args:
            run (Callable): the function.
            owner (nn.Module): can be read as ``grad_fn.owner``.
            x (Tensor): its input.
            parameters (nn.Parameter): everything else that it reads and that takes gradients.
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


def as_one_operator(module, run, x, parameters):
    """Compute ``run(x)`` as one operator of ``module``.

    Training mode builds the usual graph: nothing is traced there, and nothing is computed twice.

    Args:
        module (nn.Module): owner of the operator.
        run (Callable), x (Tensor), parameters (Sequence[nn.Parameter]): as for
            :class:`OneOperator`.
    """
    if module.training or not torch.is_grad_enabled():
        return run(x)
    return OneOperator.apply(run, module, x, *parameters)


def name_of(node):
    """Name of what made a tensor, as ``"CatBackward0"``.

    Args:
        node (torch.autograd.graph.Node): for example ``tensor.grad_fn``.
    """
    try:
        return node.name()
    except RuntimeError:  # of a function of a user's own, in torch 2.6
        return type(node).__name__
