"""Which tensors are alive together while a model runs, and which layers they grow with."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from ..tracing.layer_kinds import is_prunable_layer
from .cost_model import composites

# Operators that keep the channels, dimension 1, of their first argument.
_CHANNEL_WISE = set(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d avg_pool2d avg_pool3d
    constant_pad_nd grid_sampler_2d max_pool2d_with_indices max_pool3d_with_indices
    reflection_pad2d replication_pad2d roi_align roi_pool upsample_bicubic2d upsample_bilinear2d
    upsample_nearest2d upsample_trilinear3d
    """.split()
)
_JOINS = {"cat", "stack"}
_WRITES = {"index_put_": 2, "_index_put_impl_": 2, "copy_": 1}


class _Memory:
    """Bytes of one storage: name of a layer → those that are in proportion to its width."""

    def __init__(self, storage, parts):
        self.parts, self.bytes = parts, storage.nbytes()
        self._storage = StorageWeakRef(storage)

    @property
    def is_gone(self):
        return self._storage.expired()


class LiveTensors:
    """Records the moments in which the memory of a forward may be at its peak.

    A moment is the set of storages that are alive right before one of them is freed. Storages that
    are made before the forward (weights, images) do not count, and views are free. The bytes of a
    storage are in proportion to the output width of the layer that made them. Element-wise
    operators, poolings, interpolations and norms pass that on; concatenations add up. All other
    bytes count as constant: at other widths, they are never under-estimated.

    Args:
        model (nn.Module): inside the prunable view.

    Attributes:
        moments (list[dict[str, float]]): layer → bytes, ``""`` for constant ones; of all stages.
    """

    def __init__(self, model):
        self.moments = []
        self._layers = {
            _key(weight): name
            for name, module in model.named_modules()
            if is_prunable_layer(module)
            and isinstance(weight := getattr(module, "weight", None), torch.Tensor)
        }
        self._composites = set(composites(model))
        self._live = {}
        self._made, self._moments = [], []
        self._grown, self._end = False, None

    def recorded(self, run):
        """A function that also says what it has made.

        Args:
            run (Callable): of a stage.

        Returns:
            Callable: with the same arguments; it returns what :meth:`add` takes.
        """

        def record(regions):
            self._made, self._moments = [], []
            self._grown, self._end = False, None
            run(regions)
            self._note()
            return self._made, self._moments[: self._end]

        return record

    def add(self, runs, count=1):
        """Add the moments of a stage.

        Args:
            runs (list): what the stage gave with one region and, if it has more, with two.
            count (int): of the regions that count.

        Returns:
            bool: False if the second run differs in more than sizes from the first one: then
            nothing is added.
        """
        if len(runs) == 1:
            found = [_sizes(moment) for moment in runs[0][1]]
        elif _alike(*runs):
            found = [
                _extrapolate(_sizes(one), _sizes(two), count)
                for one, two in zip(runs[0][1], runs[1][1])
            ]
        else:
            return False
        self.moments += found
        return True

    def before(self, func):
        """Note what has been freed since the last operator.

        Args:
            func (torch._ops.OpOverload): that runs next.
        """
        gone = [key for key, memory in self._live.items() if memory.is_gone]
        ends = self._end is None and _depends_on_values(func)
        if gone or ends:
            self._note()
        for key in gone:
            del self._live[key]
        if ends:
            # What follows, unless it is another layer, depends on what is detected.
            self._end = len(self._moments)

    def after(self, name, is_product, args, result, running):
        """Note what an operator has made.

        Args:
            name (str): of the operator, as ``"aten::mm"``.
            is_product (bool): whether it is a conv or a matrix product.
            args (tuple): its arguments.
            result (object): what it gave.
            running (str): name of the innermost module that runs.
        """
        name = name.partition("::")[2]
        if is_product:
            self._end = None
        inputs = _tensors(args)
        if name in _WRITES and inputs:
            self._write(inputs[0], args[_WRITES[name]])
        given, results = None, _tensors(result)
        # In eval mode, a batch norm gives no statistics but on PyTorch's meta device.
        for x in results[:1] if "batch_norm" in name else results:
            key, given = _key(x), given or set(map(_key, inputs))
            if key not in self._live and key not in given:
                storage = x.untyped_storage()
                shares = self._shares(name, is_product, inputs, x, running)
                parts = {owner: share * storage.nbytes() for owner, share in shares.items()}
                self._live[key] = memory = _Memory(storage, parts)
                self._made.append(memory)
                self._grown = True

    def _note(self):
        if self._grown:
            self._moments.append(list(self._live.values()))
        self._grown = False

    def _write(self, target, value):
        """Channels that are written into an empty tensor are those of the tensor from then on."""
        memory = self._live.get(_key(target))
        if memory is None or set(memory.parts) != {""} or not isinstance(value, torch.Tensor):
            return
        each = target.shape[1:]
        if _is_whole(target, memory) and each and value.shape[-len(each) :] == each:
            shares = self._shares_of(value)
            memory.parts = {owner: share * memory.bytes for owner, share in shares.items()}

    def _shares(self, name, is_product, inputs, result, running):
        """Fraction of the bytes of a new tensor that is in proportion to each layer's width."""
        if is_product:
            owners = [self._layers[key] for key in map(_key, inputs) if key in self._layers]
            if owners:
                return {owners[0]: 1.0}
        elif name in _JOINS:
            return self._joined(inputs, result)
        else:
            for x in inputs:
                if x.numel() == result.numel() and self._is_owned(x):
                    return self._shares_of(x)
            if name in _CHANNEL_WISE and inputs[0].shape[1:2] == result.shape[1:2]:
                return self._shares_of(inputs[0])
        # Inside an operator such as attention, what does not come from its channels (positions) is
        # constant.
        inside = running in self._composites and any(map(self._is_owned, inputs))
        return {running if inside else "": 1.0}

    def _joined(self, inputs, result):
        shares = {}
        for x in filter(torch.Tensor.numel, inputs):
            for owner, share in self._shares_of(x).items():
                shares[owner] = shares.get(owner, 0.0) + share * x.numel() / result.numel()
        return shares or {"": 1.0}

    def _is_owned(self, x):
        return self._shares_of(x) != {"": 1.0}

    def _shares_of(self, x):
        memory = self._live.get(_key(x))
        # A part of several layers' channels may be of any of them.
        if memory is None or not memory.bytes or len(memory.parts) > 1 and not _is_whole(x, memory):
            return {"": 1.0}
        return {owner: part / memory.bytes for owner, part in memory.parts.items()}


def _tensors(tree):
    leaves = tree_leaves(tree)
    return [x for x in leaves if isinstance(x, torch.Tensor) and x.layout is torch.strided]


def _key(x):
    return x.untyped_storage()._cdata


def _is_whole(x, memory):
    return x.numel() * x.element_size() == memory.bytes


def _depends_on_values(func):
    tags = func.tags
    return torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags


def _sizes(moment):
    sizes = {}
    for memory in moment:
        for owner, size in memory.parts.items():
            sizes[owner] = sizes.get(owner, 0) + size
    return sizes


def _alike(one, two):
    """Whether two runs make as many tensors and free them at the same times."""
    places = [{memory: place for place, memory in enumerate(made)} for made, _ in (one, two)]
    first, second = (
        [[place.get(memory, memory) for memory in moment] for moment in moments]
        for place, (_, moments) in zip(places, (one, two))
    )
    return first == second


def _extrapolate(one, two, count):
    owners = dict.fromkeys([*one, *two])
    return {x: one.get(x, 0) + (count - 1) * (two.get(x, 0) - one.get(x, 0)) for x in owners}
