"""The adapter for multi-head attention: one operator between two linears, pruned by whole heads.

:mod:`blendprune.modeling.attention` says which modules are meant and runs them with fewer heads.
"""

from ...modeling.attention import attend, head_width
from .autograd import as_one_operator
from .composite import CompositeOperator


class OneAttention(CompositeOperator):
    """Attention whose graph is ``qkv``, one operator, ``proj``."""

    # Queries, keys and values of a head go together.
    num_parts = 3
    note = "attention loses whole heads: the width of a head stays"

    @property
    def num_heads(self):
        return self.proj.in_features // self._head_width

    @property
    def block_size(self):
        return head_width(self)

    def forward(self, x, *inputs, **options):
        def run(qkv):
            return attend(self, qkv, shape_of, *inputs, **options)

        shape_of = x.detach()
        parameters = [
            p for name, p in self.named_parameters() if name.split(".")[0] not in ("qkv", "proj")
        ]
        return self.proj(as_one_operator(self, run, self.qkv(x), parameters))

    def operator_width(self):
        return 3 * self.proj.in_features

    def inner_modules(self):
        return set(self.modules()) - {self.qkv, self.proj}

    def frozen_inputs(self):
        return {self.qkv: "the residual stream that attention reads"}

    def join_channels(self, channels, parameters, join):
        """``qkv`` makes three channels per channel of ``proj``; a bias table has one per head."""
        queries, keys, values = channels.view(3, -1)
        join(queries, keys)
        join(queries, values)
        table = parameters.get("relative_position_bias_table")
        if table is not None:
            join(table, queries[:: head_width(self)].expand_as(table))
        return queries


def remember_head_width(attention):
    """Keep the width of a head in the place of ``num_heads``, which follows from it."""
    vars(attention)["_head_width"] = attention.proj.in_features // vars(attention).pop("num_heads")


def count_heads(attention):
    """Undo :func:`remember_head_width`, with the heads that are left."""
    num_heads = attention.num_heads
    del attention._head_width
    vars(attention)["num_heads"] = num_heads
