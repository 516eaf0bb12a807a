"""Torch-Pruning's dependency graph of a detector, mended where it would take what is not there."""

import torch_pruning as tp

from ...errors import PruningError
from ...modeling.attention import head_width, is_attention
from ..tracing.operators import output_shape
from .outputs import head_outputs


class _Dependencies(tp.DependencyGraph):
    """Torch-Pruning's graph, which follows a flatten even where some linear sees three dimensions.

    It gives up on all reshapes once it meets such a linear (Swin's); those linears are one operator
    in the prunable view, with no reshape beside them.
    """

    _2d_4d = property(lambda self: True, lambda self, value: None)


def build_dependencies(model, example_inputs):
    """Trace a model with Torch-Pruning.

    Args:
        model (nn.Module): inside the prunable view, in eval mode, gradients enabled.
        example_inputs (list[dict]): detectron2's format.

    Returns:
        tp.DependencyGraph: which knows the channels of attention and of concatenations.

    Raises:
        PruningError: the model cannot be traced.
    """
    try:
        graph = _Dependencies().build_dependency(
            model, example_inputs, forward_fn=head_outputs, verbose=False
        )
    except (IndexError, KeyError, AttributeError) as error:
        raise PruningError(
            f"the dependency graph of {type(model).__name__} cannot be traced: {error!r}; "
            "check that its outputs are differentiable"
        ) from error
    _map_heads(graph)
    _size_concatenations(graph)
    return graph


def _map_heads(graph):
    """Tell the graph which channels of ``qkv`` are which of ``proj``."""
    for node in graph.module2node.values():
        attention = getattr(node.grad_fn, "owner", None)
        if not is_attention(attention):
            continue
        table = getattr(attention, "relative_position_bias_table", None)
        for source, target in ((node, other) for other in node.inputs + node.outputs):
            inwards, outwards = _nothing, _nothing
            if target.module is attention.qkv:
                inwards = _modulo(attention.proj.in_features)
            elif target.module is table:  # one column a head
                outwards = _floor(head_width(attention))
            elif target.module is attention.proj:
                inwards = outwards = None
            for one, other, mapping in ((target, source, inwards), (source, target, outwards)):
                for dep in one.dependencies:
                    if dep.target is other:
                        dep.index_mapping[0] = mapping


def _size_concatenations(graph):
    """Tell the graph how wide the parts are: it would take a layer's width for them."""
    for node in graph.module2node.values():
        if isinstance(node.module, tp.ops._ConcatOp) and len(output_shape(node.grad_fn)) > 1:
            sources = [source for source in node.grad_fn.next_functions if source[0] is not None]
            node.module.concat_sizes = [
                source._input_metadata[number].shape[1] for source, number in sources
            ]


def _nothing(indices):
    return []


def _modulo(width):
    def mapping(indices):
        return list(
            {i.idx % width: i._replace(idx=i.idx % width) for i in reversed(indices)}.values()
        )

    return mapping


def _floor(width):
    def mapping(indices):
        return list({i.idx // width: i._replace(idx=i.idx // width) for i in indices}.values())

    return mapping
