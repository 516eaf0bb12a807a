"""Torch-Pruning's dependency graph of a detector, with the channels that a flow found."""

import numpy as np
import torch_pruning as tp
from torch import nn
from torch_pruning.dependency import Dependency, Group, Node

from ..tracing.autograd import name_of
from .channel_flow import ChannelFlow, LayerCalls


class Dependencies(tp.DependencyGraph):
    """Torch-Pruning's graph of nodes and pruning functions, with indices from a ChannelFlow.

    Torch-Pruning derives indices from widths while it searches a group. It does not know the shapes
    of what it passes, and with slices its search need not end. Here every entry of every layer has
    its channel before a search begins, and a search visits each side of each node once.

    Args:
        model (nn.Module): inside the prunable view, in eval mode, gradients enabled.
        example_inputs (list[dict]): detectron2's format.
        forward (Callable): called with both; gives the outputs to trace from.
    """

    def __init__(self, model, example_inputs, forward):
        super().__init__()
        self.verbose, self.model, self.ignored_params = False, model, []
        self._module2name = {module: name for name, module in model.named_modules()}
        self._param_to_name, self.unwrapped_parameters = self._detect_unwrapped_parameters(None)
        with LayerCalls(model) as calls:
            outputs = forward(model, example_inputs)
        names = {tensor: name for name, tensor in model.named_buffers()}
        names.update((tensor, name) for name, tensor in model.named_parameters())
        self.flow = ChannelFlow(
            outputs, calls, {**self._module2name, **names}, set(self._param_to_name)
        )
        self.module2node = self._nodes(outputs, calls)
        self._build_dependency(self.module2node)
        self._sides = {}
        self._find_sides()
        classes = self.flow.classes
        self.kept, self.divided = classes.kept(), classes.parts()
        self._operators = {
            node: set(classes.classes(ids).tolist()) for node, ids in self.flow.operators.items()
        }

    def _nodes(self, outputs, calls):
        """Nodes by module, or by what stands for an operator, in Torch-Pruning's order."""
        nodes, modules, ends = {}, {}, {output.grad_fn: output for output in outputs}

        def node_of(grad_fn):
            module = modules.get(grad_fn)
            if module is None:
                module = modules[grad_fn] = self._module_of(grad_fn, calls, ends, len(modules))
            if module not in nodes:
                nodes[module] = Node(module, grad_fn, self._module2name.get(module))
            return nodes[module]

        seen = set()
        for end in (output.grad_fn for output in outputs):
            stack = [end]
            while stack:
                grad_fn = stack.pop()
                if grad_fn in seen:
                    continue
                node = node_of(grad_fn)
                for source in filter(None, self.flow.sources(grad_fn)):
                    parameter = getattr(source[0], "variable", None)
                    if parameter is None or parameter in self._param_to_name:
                        before = node_of(source[0])
                        node.add_input(before)
                        before.add_output(node)
                        stack.append(source[0])
                seen.add(grad_fn)
        return nodes

    def _module_of(self, grad_fn, calls, ends, number):
        if hasattr(grad_fn, "variable"):
            self._module2name[grad_fn.variable] = self._param_to_name[grad_fn.variable]
            return grad_fn.variable
        call = calls.by_node.get(grad_fn)
        if call is not None:
            return call.module
        if grad_fn in ends:
            return tp.ops._OutputOp(number, shape=ends[grad_fn].shape)
        if name_of(grad_fn).startswith("CatBackward"):
            return tp.ops._ConcatOp(number)
        if "View" in name_of(grad_fn):
            return tp.ops._ReshapeOp(number)
        return tp.ops._ElementWiseOp(number, name_of(grad_fn))

    def _find_sides(self):
        flow, classes = self.flow, self.flow.classes
        for node in self.module2node.values():
            module = node.module
            pruner = self.get_pruner_of_module(module)
            if isinstance(module, nn.Parameter):
                dim, entries = self._channels_of(flow.elements.get(module))
                node.pruning_dim = dim
                self._sides[node, pruner.prune_out_channels] = entries
            elif module in flow.outputs:
                for handler, ids in (
                    (pruner.prune_in_channels, flow.inputs[module]),
                    (pruner.prune_out_channels, flow.outputs[module]),
                ):
                    self._sides[node, handler] = classes.classes(ids)

    def _channels_of(self, elements):
        """The dimension of a parameter that is its channels, and their classes."""
        nothing = -1, np.zeros(0, np.int64)
        if elements is None:
            return nothing
        classes = self.flow.classes
        found = classes.classes(elements)
        known = ~classes.is_loose(found)
        if not known.any():
            return nothing
        for dim in reversed(range(found.ndim)):
            slabs = np.moveaxis(found, dim, 0).reshape(found.shape[dim], -1)
            # Elements that met no channel go with those beside them.
            inside = np.moveaxis(known, dim, 0).reshape(found.shape[dim], -1)
            first = slabs[np.arange(len(slabs)), inside.argmax(1)]
            if inside.any(1).all() and (~inside | (slabs == first[:, None])).all():
                return dim, first
        classes.keep(elements, "meets a parameter that has them in several dimensions")
        return nothing

    def is_layer(self, node):
        """Whether a node has entries of its own, and is no operator."""
        return isinstance(node.module, nn.Parameter) or node.module in self.flow.outputs

    def root_classes(self, module):
        """The class of each output of a layer (array of int64)."""
        pruner = self.get_pruner_of_module(module)
        return self._sides[self.module2node[module], pruner.prune_out_channels]

    def get_pruning_group(self, module, pruning_fn, idxs):
        """The group of Torch-Pruning of some outputs of a layer.

        Args:
            module (nn.Module): the layer.
            pruning_fn (Callable): its pruning function for outputs.
            idxs (Sequence[int]): numbers of outputs.

        Returns:
            tp.dependency.Group: as Torch-Pruning's; items of operators have the indices of the
            root.
        """
        root = self.module2node[module]
        idxs = [idxs] if isinstance(idxs, int) else list(idxs)
        own = self._sides[root, pruning_fn]
        # An entry of another layer stands for the first channel of its class.
        channel_of = {int(own[i]): i for i in reversed(idxs)}
        group = Group()
        group._DG = self
        self._add(group, Dependency(pruning_fn, pruning_fn, root, root), idxs, idxs)
        seen, stack = {(root, pruning_fn)}, [(root, pruning_fn)]
        while stack:
            node, function = stack.pop()
            for dep in node.dependencies:
                target = (dep.target, dep.handler)
                if not dep.is_triggered_by(function) or target in seen:
                    continue
                entries, channels = self._touched(*target, channel_of, own, idxs)
                if entries:
                    seen.add(target)
                    self._add(group, dep, entries, channels)
                    stack.append(target)
        return group

    def _touched(self, node, handler, channel_of, own, idxs):
        """Entries of a node that stand for channels, and these channels."""
        if not self.is_layer(node):
            there = self._operators.get(node.grad_fn, ())
            channels = [i for i in idxs if int(own[i]) in there]
            return channels, channels
        found = self._sides.get((node, handler), ())
        pairs = [(channel_of[c], i) for i, c in enumerate(map(int, found)) if c in channel_of]
        pairs.sort()
        return [entry for _, entry in pairs], [channel for channel, _ in pairs]

    @staticmethod
    def _add(group, dep, entries, channels):
        group.add_dep(dep, entries)
        group[-1].root_idxs = channels

    def prune(self, group):
        """Remove the entries of a group from its layers, and forget them.

        Args:
            group (tp.dependency.Group): from :meth:`get_pruning_group`.
        """
        layers = Group()
        layers._DG = self
        for item in group:
            if self.is_layer(item.dep.target):
                self._add(layers, item.dep, item.idxs, item.root_idxs)
        layers.prune(record_history=False)
        for dep, entries in layers:
            side = (dep.target, dep.handler)
            self._sides[side] = np.delete(self._sides[side], entries)
