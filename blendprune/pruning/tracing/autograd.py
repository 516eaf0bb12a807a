"""The graph that autograd keeps."""


def reached(nodes, until=()):
    """All nodes that the given ones depend on, those included.

    Args:
        nodes (Iterable[torch.autograd.graph.Node | None]): where to start.
        until (Container): nodes to go no further from.

    Returns:
        set[torch.autograd.graph.Node]: the last ones of each way, those of ``until``, included.
    """
    seen, stack = set(), list(nodes)
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if node not in until:
                stack += [source for source, _ in node.next_functions]
    return seen
