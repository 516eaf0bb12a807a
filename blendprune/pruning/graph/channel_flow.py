"""How channels flow through a traced model: which entries of which layers are the same channel."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..tracing.autograd import ancestors, name_of
from ..tracing.composite import CompositeOperator
from ..tracing.layer_kinds import is_depthwise, is_norm
from .channel_classes import ChannelClasses
from .labels import Labels, along, sizes, unknown, vector_along
from .operators import Operator, apply_rule

#: Modules of many operators that are not followed.
OPAQUE = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
# What may stand between the parameters of a layer, its input and its output.
_PLAIN = ("Convolution", "Addmm", "Mm", "T", "Transpose", "View", "UnsafeView", "Add", "Reshape")


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer, of a norm or of a module that is not followed.

    Attributes:
        module (nn.Module): what was called.
        sources (list[tuple[Node, int] | None]): for each tensor that it read, what made it; None
            for a constant.
        shape (tuple[int, ...]): of the first input.
        outputs (list[Node]): nodes of what it returned.
    """

    module: nn.Module
    sources: list
    shape: tuple
    outputs: list


class LayerCalls(TorchFunctionMode):
    """Records calls; a context manager around a forward.

    Args:
        model (nn.Module): inside the prunable view.

    Attributes:
        by_node (dict[Node, LayerCall]): calls by what made their outputs.
        chunks (set[Node]): calls of ``torch.chunk``.
    """

    def __init__(self, model):
        super().__init__()
        self._layers = [m for m in model.modules() if _is_layer(m) or isinstance(m, OPAQUE)]
        self.by_node, self.chunks = {}, set()

    def __enter__(self):
        self._handles = [
            layer.register_forward_hook(self._record, with_kwargs=True) for layer in self._layers
        ]
        return super().__enter__()

    def __exit__(self, *error):
        for handle in self._handles:
            handle.remove()
        return super().__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Note which splits are chunks; autograd does not tell them from others."""
        found = function(*args, **(kwargs or {}))
        if function in (torch.chunk, torch.Tensor.chunk):
            self.chunks.update(part.grad_fn for part in found if part.grad_fn is not None)
        return found

    def _record(self, module, inputs, options, output):
        read = _tensors((inputs, options))
        made = [each.grad_fn for each in _tensors(output) if each.grad_fn is not None]
        if read and made:
            sources = [(x.grad_fn, x.output_nr) if x.grad_fn is not None else None for x in read]
            call = LayerCall(module, sources, tuple(read[0].shape), made)
            self.by_node.update(dict.fromkeys(made, call))


class ChannelFlow:
    """Classes of channels, found by following the outputs of a model back to its layers.

    Every tensor gets a label for each of its elements: the channel that it belongs to. Operators
    move labels as they move the elements. What an operator does that has no rule is not guessed:
    the channels that reach it stay, and so do those of layers that read its output.

    Args:
        outputs (Sequence[Tensor]): raw outputs, with gradient history.
        calls (LayerCalls): of the same forward.
        names (dict[nn.Module | nn.Parameter | Tensor, str]): of modules, parameters and buffers.
        loose (set[nn.Parameter]): parameters outside of layers.

    Attributes:
        classes (ChannelClasses): of the ids below.
        inputs (dict[nn.Module, Tensor]), outputs (dict[nn.Module, Tensor]): ids of the entries of
            each layer's inputs and outputs; a norm has the same for both.
        elements (dict[nn.Parameter, Tensor]): ids of the elements of each loose parameter.
        operators (dict[Node, Tensor]): ids that an operator handles.
    """

    def __init__(self, outputs, calls, names, loose):
        self.classes = ChannelClasses()
        self.inputs, self.outputs, self.elements, self.operators = {}, {}, {}, {}
        self._calls, self._chunks = calls.by_node, calls.chunks
        self._names, self._loose = names, loose
        self._labels = {}
        for node in self._in_order([output.grad_fn for output in outputs]):
            self._follow(node)
        del self._labels

    def _in_order(self, ends):
        """The nodes behind the ends, what makes a tensor before what reads it."""
        seen, stack = set(), [(node, False) for node in ends if node is not None]
        while stack:
            node, done = stack.pop()
            if done:
                yield node
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack += [(source[0], False) for source in self.sources(node) if source]

    def sources(self, node):
        """What made the inputs of a node, behind all that happens inside of a layer.

        Args:
            node (torch.autograd.graph.Node): an operator, or the last one of a layer.

        Returns:
            list[tuple[Node, int] | None]: None for a constant.
        """
        call = self._calls.get(node)
        if call is not None:
            return call.sources if isinstance(call.module, OPAQUE) else call.sources[:1]
        return [source if source[0] is not None else None for source in node.next_functions]

    def _follow(self, node):
        shapes = [sizes(each.shape) for each in node._input_metadata] or [(1,)]
        sources = self.sources(node)
        inputs = [self._labels.get(source) if source else None for source in sources]
        call = self._calls.get(node)
        if hasattr(node, "variable"):
            found = [self._leaf(node.variable)]
        elif call is None:
            found = self._operator(node, inputs, shapes)
        elif isinstance(call.module, OPAQUE):
            found = self._opaque(call, inputs, shapes)
        else:
            found = [self._layer(call, node, inputs[0] if inputs else None, shapes[0])]
        for number, labels in enumerate(found):
            if labels is not None:
                self._labels[node, number] = labels
        used = [_few(labels.ids) for labels in (*inputs, *found) if labels is not None]
        if used:
            self.operators[node] = torch.cat(used)

    def _leaf(self, variable):
        if variable not in self.elements:
            ids = self.classes.new(*sizes(variable.shape), loose=True)
            self.elements[variable] = ids
            if variable not in self._loose:
                name = self._names.get(variable, "a constant")
                self.classes.keep(ids, f"meets {name}, which stays")
        return Labels(self.elements[variable])

    def _operator(self, node, inputs, shapes):
        owner = getattr(node, "owner", None)
        if isinstance(owner, CompositeOperator):
            known = [labels for labels in inputs if labels is not None]
            if owner.frozen_reason:
                for labels in known:
                    reason = f"{self._names[owner]} {owner.frozen_reason}"
                    self.classes.keep(labels.ids, reason)
                return [unknown(shape) for shape in shapes]
            return [self._composite(owner, known, shapes[0])]
        operator = Operator(node, inputs, shapes, self.classes, node in self._chunks)
        return apply_rule(operator)

    def _composite(self, owner, inputs, shape):
        if not inputs:
            return unknown(shape)
        vectors = [vector_along(inputs[0], -1, self.classes)]
        parameters = {
            name: self.elements[p] for name, p in owner.named_parameters() if p in self.elements
        }
        vector = owner.join_channels(vectors[0], parameters, self.classes.join)
        return along(vector, -1, shape)

    def _opaque(self, call, inputs, shapes):
        name = f"{self._names[call.module]}, a {type(call.module).__name__}, is not followed"
        for labels in inputs:
            if labels is not None:
                self.classes.keep(labels.ids, name)
        return [unknown(shape) for shape in shapes]

    def _layer(self, call, node, labels, shape):
        module = call.module
        dim = _channel_dim(module, call, labels)
        made, read = self._entries(module)
        if labels is not None:
            vector = vector_along(labels, dim, self.classes)
            if len(vector) == len(read):
                self.classes.join(read.numpy(), vector.numpy())
            else:
                reason = f"{self._names[module]} reads them in another dimension"
                self.classes.keep(vector, reason)
                self.classes.keep(read, reason)
        if shape[dim] != len(made):
            return unknown(shape)
        strange = self._strange_weight(module, node, call)
        if strange:
            self.classes.keep(made, strange)
            self.classes.keep(read, strange)
        return along(made, dim, shape)

    def _entries(self, module):
        """Ids of the outputs and of the inputs of a layer, the same in all its calls."""
        if module not in self.outputs:
            made, read = _widths(module)
            self.outputs[module] = self.classes.new(made)
            self.inputs[module] = self.outputs[module]
            if not _passes_channels(module):
                self.inputs[module] = self.classes.new(read)
            elif made != read:
                reason = f"{self._names[module]} has {made // read} filters for each input"
                self.classes.keep(self.outputs[module], reason)
        return self.outputs[module], self.inputs[module]

    def _strange_weight(self, module, node, call):
        """Why the weight of a layer is more than a parameter, or an empty string."""
        if is_norm(module) or getattr(node, "owner", None) is module:
            return ""
        until = {source[0] for source in call.sources if source}
        inside = ancestors([node], until) - until
        own = {getattr(module, name, None) for name in ("weight", "bias")}
        leaves = {each.variable for each in inside if hasattr(each, "variable")}
        names = {name_of(each) for each in inside if not hasattr(each, "variable")}
        plain = all(
            name.split("Backward")[0] in _PLAIN or "deform" in name.lower() for name in names
        )
        if leaves <= own and (plain or _reads_parameter(inside)):
            return ""
        return f"{self._names[module]} computes its weight"


def _reads_parameter(nodes):
    """Whether the convolution among nodes reads its weight as it is (its input may be padded)."""
    convs = [node for node in nodes if "Convolution" in name_of(node)]
    return len(convs) == 1 and hasattr(convs[0].next_functions[1][0], "variable")


def _is_layer(module):
    known = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding)
    return isinstance(module, known) or is_norm(module) or _is_wide_prelu(module)


def _is_wide_prelu(module):
    return isinstance(module, nn.PReLU) and module.num_parameters > 1


def _passes_channels(module):
    layer = isinstance(module, (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding))
    return not layer or is_depthwise(module)


def _widths(module):
    """Numbers of outputs and of inputs."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels, module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, nn.Embedding):
        return module.embedding_dim, 0
    for name in ("num_features", "num_channels", "num_parameters"):
        if hasattr(module, name):
            return (getattr(module, name),) * 2
    return (module.normalized_shape[-1],) * 2


def _channel_dim(module, call, labels):
    if isinstance(module, (nn.Linear, nn.Embedding)):
        return -1
    if isinstance(module, nn.LayerNorm):
        # A subclass may move the channels to the end and back.
        dims = labels.varying if labels is not None else []
        moved = len(dims) == 1 and labels.shape[dims[0]] == module.normalized_shape[-1]
        return dims[0] - len(call.shape) if moved else -1
    if isinstance(module, nn.modules.conv._ConvNd):
        return -1 - (module.weight.dim() - 2)
    return 1


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return [value.data]
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, (list, tuple, type({}.values()))):
        return [tensor for each in value for tensor in _tensors(each)]
    return []


def _few(ids):
    """The different ids of a tensor, without its dimensions of equal ones."""
    at = tuple(slice(None) if stride else 0 for stride in ids.stride())
    return ids[at].flatten()
