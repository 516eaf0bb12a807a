"""Torch-Pruning's dependency graph of a detector, with corrections where it would be wrong."""

import torch_pruning as tp

from ...errors import PruningError
from ..tracing.autograd import output_shape
from ..tracing.composite import CompositeOperator


class _Dependencies(tp.DependencyGraph):
    """Torch-Pruning's graph, which here follows every flatten.

    It gives up on all reshapes once a linear has an input of three dimensions (Swin). In the
    prunable view such a linear is one operator with no reshape beside it.
    """

    _2d_4d = property(lambda self: True, lambda self, value: None)


def build_dependencies(model, example_inputs, forward):
    """Trace a model with Torch-Pruning.

    Args:
        model (nn.Module): inside the prunable view, in eval mode, gradients enabled.
        example_inputs (list[dict]): detectron2's format.
        forward (Callable): called with both; gives the outputs to trace from.

    Returns:
        tp.DependencyGraph: with the channels of composite operators and of concatenations.

    Raises:
        PruningError: the model cannot be traced.
    """
    try:
        graph = _Dependencies().build_dependency(
            model, example_inputs, forward_fn=forward, verbose=False
        )
    except (IndexError, KeyError, AttributeError) as error:
        raise PruningError(
            f"the dependency graph of {type(model).__name__} cannot be traced: {error!r}; "
            "check that its outputs are differentiable"
        ) from error
    _map_composites(graph)
    _size_concatenations(graph)
    return graph


def _map_composites(graph):
    """Tell the graph which channels of a composite operator are which of its neighbours."""
    for node in graph.module2node.values():
        owner = getattr(node.grad_fn, "owner", None)
        if not isinstance(owner, CompositeOperator):
            continue
        for other in node.inputs + node.outputs:
            mappings = owner.index_mappings(other.module)
            if mappings is None:
                continue
            for one, target, mapping in zip((other, node), (node, other), mappings):
                for dep in one.dependencies:
                    if dep.target is target:
                        dep.index_mapping[0] = mapping


def _size_concatenations(graph):
    """Tell the graph how wide the parts are; it would assume the width of a layer."""
    for node in graph.module2node.values():
        if isinstance(node.module, tp.ops._ConcatOp) and len(output_shape(node.grad_fn)) > 1:
            sources = [source for source in node.grad_fn.next_functions if source[0] is not None]
            node.module.concat_sizes = [
                source._input_metadata[number].shape[1] for source, number in sources
            ]
