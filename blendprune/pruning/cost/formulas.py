"""FLOPs of operators and modules: a formula each, and which operators are free.

One multiply-add is one FLOP, as fvcore counts. Operators are those of aten that reach the
dispatcher once composite operators are resolved.
"""

from collections.abc import Callable
from math import prod

import torch
from torch import nn

from ...errors import ConfigError


def _convolution(result, x, weight, bias, stride, padding, dilation, transposed, *_):
    return x.shape[0] * prod(weight.shape) * prod((x if transposed else result).shape[2:])


def _matmul(result, a, b, *_):
    return prod(a.shape) * b.shape[-1]


def _biased_matmul(result, bias, a, b, *_):
    return _matmul(result, a, b)


def _deform_convolution(result, x, weight, *_):
    # torchvision's, for any offsets: a convolution at as many positions.
    return x.shape[0] * prod(weight.shape) * prod(result.shape[2:])


def _attention(result, query, key, value, *_):
    # Two products: queries with keys, and the weights of these with values.
    return prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _norm(result, x, *_):
    return 5 * prod(x.shape)


def _fixed_norm(result, x, *_):
    return 2 * prod(x.shape)


def _interpolation(weight):
    return lambda result, *_: weight * prod(result.shape)


def _pooling(result, x, *_):
    return prod(x.shape)


def _recurrence(result, x, weight, recurrent_weight, *_):
    # One direction of an LSTM on a CPU. Other devices run it as products, which count as such.
    return prod(x.shape[:2]) * (weight.numel() + recurrent_weight.numel())


#: Name of an operator → FLOPs of one call, from its result and its arguments.
OPERATORS = {
    "aten::convolution": _convolution,
    "aten::mm": _matmul,
    "aten::bmm": _matmul,
    "aten::addmm": _biased_matmul,
    "aten::baddbmm": _biased_matmul,
    "aten::_scaled_dot_product_flash_attention": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_efficient_attention": _attention,
    "aten::_scaled_dot_product_cudnn_attention": _attention,
    "aten::native_batch_norm": _fixed_norm,
    "aten::cudnn_batch_norm": _fixed_norm,
    "aten::miopen_batch_norm": _fixed_norm,
    "aten::_native_batch_norm_legit_no_training": _fixed_norm,
    "aten::_batch_norm_no_update": _fixed_norm,
    "aten::native_group_norm": _norm,
    "aten::native_layer_norm": _norm,
    "aten::upsample_nearest2d": _interpolation(1),
    "aten::upsample_bilinear2d": _interpolation(4),
    "aten::grid_sampler_2d": _interpolation(4),
    "aten::_adaptive_avg_pool2d": _pooling,
    "torchvision::deform_conv2d": _deform_convolution,
    "aten::mkldnn_rnn_layer": _recurrence,
}
#: Formulas of operators whose results count as activations.
PRODUCTS = {_convolution, _matmul, _biased_matmul, _deform_convolution}
#: Type of a module → FLOPs of one call, from the module, its inputs and its output.
MODULES: dict[type[nn.Module], Callable[..., int]] = {}

# Operators that fvcore and we count as free: they only move, select, compare, sort or reduce
# numbers, make constants, or sample a few positions of regions; and element-wise operators that
# PyTorch does not mark as such.
_FREE = set(
    """
    _adaptive_avg_pool3d _index_put_impl_ _local_scalar_dense _log_softmax _prelu_kernel
    _reshape_alias _softmax _to_copy _unique2 _unsafe_view adaptive_max_pool2d
    affine_grid_generator all amax amin any arange argmax argmin avg_pool2d avg_pool3d bernoulli
    bernoulli_ bincount bucketize cat clone col2im constant_pad_nd contiguous copy copy_ cumprod
    cumsum diag_embed embedding empty empty_like empty_strided expand_copy eye fill fill_ flip full
    full_like gather glu hardswish hardswish_ histc im2col index index_add index_add_ index_copy
    index_fill index_put index_put_ index_select is_same_size item kthvalue leaky_relu leaky_relu_
    lift_fresh lift_fresh_copy linalg_vector_norm linspace log_sigmoid_forward masked_fill
    masked_fill_ masked_scatter masked_select max max_pool2d_with_indices max_pool3d_with_indices
    mean median min mode multinomial native_dropout new_empty new_empty_strided new_full new_ones
    new_zeros nms nonzero norm normal_ ones ones_like pixel_shuffle pixel_unshuffle prod rand
    rand_like randint randn randn_like randperm reflection_pad2d repeat repeat_interleave
    replication_pad2d resize_ roi_align roll rot90 rrelu_with_noise rrelu_with_noise_ scalar_tensor
    scatter scatter_ scatter_add scatter_add_ scatter_reduce searchsorted set_ sort split_copy
    split_with_sizes_copy stack std std_mean sum topk tril tril_indices triu triu_indices
    unbind_copy unfold_copy uniform_ unique unsafe_chunk unsafe_split unsafe_split_with_sizes var
    var_mean view_copy where zero_ zeros zeros_like
""".split()
)


def register_flops(target: str | type[nn.Module], formula: Callable[..., int]) -> None:
    """Give an operator or a type of module its FLOPs.

    One multiply-add is one FLOP. Everything that an instance of a registered module type runs is
    counted by the formula alone.

    Args:
        target (str | type): name of an operator as ``plan`` and ``report.json`` name it
            (``"mylib::my_op"``), or a subclass of ``nn.Module``.
        formula (Callable): of an operator ``formula(result, *args) -> int`` with the result of the
            call and its arguments; of a module ``formula(module, inputs, output) -> int`` with the
            tuple of its positional inputs.

    Raises:
        ConfigError: ``target`` is neither, or ``formula`` cannot be called.
    """
    if not callable(formula):
        raise ConfigError(f"register_flops got {formula!r}: pass a function as the formula.")
    if isinstance(target, str) and "::" in target:
        OPERATORS[target] = formula
    elif isinstance(target, type) and issubclass(target, nn.Module):
        MODULES[target] = formula
    else:
        raise ConfigError(
            f"register_flops got {target!r}: pass a subclass of nn.Module or the name of an "
            "operator, for example 'mylib::my_op'."
        )


def module_formula(module):
    """The formula of the nearest registered type of a module, or None."""
    return next((MODULES[cls] for cls in type(module).__mro__ if cls in MODULES), None)


def operator_name(func):
    """Name of an operator without its overload, as ``"aten::mm"``.

    Args:
        func (torch._ops.OpOverload): as dispatch modes see it.
    """
    return func._schema.name


def is_free(func, result):
    """Whether an operator without a formula counts as 0 by convention.

    Free are element-wise operators, views, everything that gives no floating-point numbers, and the
    operators listed above.

    Args:
        func (torch._ops.OpOverload): the operator.
        result (object): of the call.
    """
    name = operator_name(func)
    # A variant that works in place ends in an underscore and may lack the tags of the operator.
    packet = getattr(torch.ops.aten, name.removeprefix("aten::").rstrip("_"), None)
    variants = [func]
    if name.endswith("_") and packet is not None:
        variants += [getattr(packet, overload) for overload in packet.overloads()]
    if any(each.is_view or torch.Tag.pointwise in each.tags for each in variants):
        return True
    leaves = result if isinstance(result, (tuple, list)) else [result]
    if not any(isinstance(x, torch.Tensor) and x.is_floating_point() for x in leaves):
        return True
    return name.partition("::")[2] in _FREE
