"""Modules of which an inner part is one operator, and what the channel graph asks of them."""


class CompositeOperator:
    """Mixin of stand-in classes: what the module does inside is one operator of the graph.

    The graph of channels, the costs and the notes ask these methods; they know no such module by
    name.

    Attributes:
        frozen_reason (str): why the channels that the operator works on keep their width; empty if
            they may be pruned.
        num_parts (int): equal parts of these channels that keep equal counts at equal positions.
        block_size (int): neighbouring channels that go together.
        note (str): what users must know about pruning such a module; empty for nothing.
    """

    frozen_reason = ""
    num_parts = 1
    block_size = 1
    note = ""

    def operator_width(self):
        """Channels that the operator works on; its cost is in proportion to them.

        Raises:
            NotImplementedError: the channels are frozen, so that nobody asks; a stand-in whose
                channels may be pruned overrides this.
        """
        raise NotImplementedError

    def inner_modules(self):
        """Modules that run inside the operator, where no hook sees their calls.

        Returns:
            set[nn.Module]: the module itself included.
        """
        return {self}

    def frozen_inputs(self):
        """Layers in front of the operator whose input channels keep their number.

        Returns:
            dict[nn.Module, str]: layer → reason.
        """
        return {}

    def join_channels(self, channels, parameters, join):
        """Join what the operator couples, and say which channels it outputs.

        Args:
            channels (Tensor): (input channels,) ids of the channels that it reads.
            parameters (dict[str, Tensor]): ids of the elements of each parameter that it reads, by
                name.
            join (Callable): called with two tensors of ids: each pair goes together.

        Returns:
            Tensor: (output channels,) ids.
        """
        return channels
