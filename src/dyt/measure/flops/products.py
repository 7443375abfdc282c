"""Multiply-accumulates of matrix products and convolutions, from what the operators are given and what they return.

Every formula is called as `formula(out, *args, **kwargs)`: the operator's result, then its arguments, tensors as they
are, but for an `out` among its keywords.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

Formula = Callable[..., int]
"""(out, *args, **kwargs) -> multiply-accumulates."""


def shapes(x: Tensor) -> list[tuple[int, ...]]:
    """The tensor's shape; of a nested one (strided) those of its parts."""
    return [tuple(row) for row in x._nested_tensor_size().tolist()] if x.is_nested else [tuple(x.shape)]


def depth(x: Tensor) -> int:
    """How many numbers a row of x (..., K) has; two 4-bit floats count as one element."""
    return int(x.shape[-1]) * (2 if x.dtype == getattr(torch, "float4_e2m1fn_x2", None) else 1)


def contraction(place: int = 0) -> Formula:
    """Of a product that sums over the last dimension of its argument at `place`: each number of the result, K times."""

    def formula(out: Tensor, *args: Any, **kwargs: Any) -> int:
        left: Tensor = args[place]
        if not left.is_nested:
            return int(out.numel()) * depth(left)
        parts = zip(shapes(out), shapes(left), strict=True)
        return sum(prod(mine) * theirs[-1] for mine, theirs in parts)

    return formula


def summed_batch(out: Tensor, start: Tensor, left: Tensor, right: Tensor, **kwargs: Any) -> int:
    """Of `addbmm`, whose result has no trace of the batch B: (B, M, K) times (B, K, N)."""
    return int(left.numel()) * int(right.shape[-1])


def outer(out: Tensor, *args: Any, **kwargs: Any) -> int:
    """Of `addr`: one for each number of the result."""
    return int(out.numel())


def grouped(out: Tensor, left: Tensor, right: Tensor, *args: Any, **kwargs: Any) -> int:
    """Of products by groups: (M, K) or (G, M, K) times (K, N) or (G, K, N); what lacks G is cut by offsets.

    Rows, columns and depths of all groups together are those of the tensor that lacks G.
    """
    rows = int(left.numel()) // int(left.shape[-1]) if left.dim() == right.dim() or left.dim() == 2 else left.shape[1]
    return int(rows) * depth(left) * int(right.shape[-1])


def each(out: Sequence[Tensor], left: Sequence[Tensor], *args: Any, **kwargs: Any) -> int:
    """Of products of two lists."""
    return sum(int(y.numel()) * depth(x) for y, x in zip(out, left, strict=True))


def trilinear(out: Tensor, i1: Tensor, i2: Tensor, i3: Tensor, *expanded: Sequence[int], **kwargs: Any) -> int:
    """Of `_trilinear`, which `bilinear` is made of: every point of the three tensors' common space."""
    dims = [x.dim() + len(expanded[k]) for k, x in enumerate((i1, i2, i3))]
    sizes = [1] * dims[0]
    for k, x in enumerate((i1, i2, i3)):
        own = iter(x.shape)
        for d in range(dims[k]):
            sizes[d] = max(sizes[d], 1 if d in expanded[k] else int(next(own)))
    return prod(sizes)


def convolution(out: Tensor, x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> int:
    """Of a convolution with weight (out, in / groups, ...): each number of the result, once for each weight of it."""
    return int(out.numel()) * prod(weight.shape[1:])


def transposed_convolution(out: Tensor, x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> int:
    """Of a transposed one with weight (in, out / groups, ...): each number given, once for each weight of it."""
    return int(x.numel()) * prod(weight.shape[1:])


def either_convolution(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *args: Any,
) -> int:
    """Of the operators that do both."""
    return (transposed_convolution if transposed else convolution)(out, x, weight)


def convolution_tbc(out: Tensor, x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> int:
    """Of `conv_tbc`, whose weight is (length, in, out)."""
    return int(out.numel()) * prod(weight.shape[:2])


def _named(formula: Formula, namespace: str, names: str) -> dict[str, Formula]:
    return {f"{namespace}::{name}": formula for name in names.split()}


_FIRST = (
    "mm bmm mv dot vdot matmul linear mkldnn_linear _cdist_forward _euclidean_dist _int_mm _scaled_mm _scaled_mm_v2 "
    "_weight_int8pack_mm _weight_int4pack_mm _weight_int4pack_mm_for_cpu _weight_int4pack_mm_with_scales_and_zeros "
    "_dyn_quant_matmul_4bit _mixed_dtypes_linear _wrapped_quantized_linear_prepacked fbgemm_linear_int8_weight "
    "fbgemm_linear_int8_weight_fp32_activation fbgemm_linear_fp16_weight fbgemm_linear_fp16_weight_fp32_activation"
)
_QUANTISED = (
    "linear linear_relu linear_leaky_relu linear_tanh linear_dynamic linear_relu_dynamic linear_dynamic_fp16 "
    "linear_relu_dynamic_fp16"
)
_FORWARD = (
    "cudnn_convolution cudnn_convolution_relu cudnn_convolution_add_relu mkldnn_convolution _slow_conv2d_forward "
    "thnn_conv2d slow_conv3d slow_conv3d_forward slow_conv_dilated2d slow_conv_dilated3d _conv_depthwise2d "
    "conv_depthwise3d _nnpack_spatial_convolution miopen_convolution miopen_convolution_relu "
    "miopen_convolution_add_relu miopen_depthwise_convolution _mps_convolution"
)
_TRANSPOSED = (
    "cudnn_convolution_transpose miopen_convolution_transpose _mps_convolution_transpose slow_conv_transpose2d "
    "slow_conv_transpose3d"
)

PRODUCTS: dict[str, Formula] = {
    **_named(contraction(), "aten", _FIRST),
    **_named(contraction(1), "aten", "addmm _addmm_activation baddbmm addmv addmm_ baddbmm_ addmv_"),
    **_named(summed_batch, "aten", "addbmm addbmm_"),
    **_named(outer, "aten", "addr"),
    **_named(grouped, "aten", "_grouped_mm _scaled_grouped_mm _scaled_grouped_mm_v2"),
    **_named(each, "aten", "_foreach_mm"),
    **_named(trilinear, "aten", "_trilinear"),
    **_named(contraction(), "mkldnn", "_linear_pointwise"),
    **_named(contraction(), "mkl", "_mkl_linear"),
    **_named(contraction(), "onednn", "qlinear_pointwise linear_dynamic_fp16 linear_relu_dynamic_fp16"),
    **_named(contraction(), "quantized", _QUANTISED),
    **_named(contraction(), "torchao", "int_matmul int_scaled_matmul"),
    **_named(either_convolution, "aten", "convolution _convolution convolution_overrideable"),
    **_named(convolution, "aten", _FORWARD),
    **_named(transposed_convolution, "aten", _TRANSPOSED),
    **_named(convolution, "mkldnn", "_convolution_pointwise"),
    **_named(transposed_convolution, "mkldnn", "_convolution_transpose_pointwise"),
    **_named(convolution, "torchvision", "deform_conv2d"),
    **_named(convolution_tbc, "aten", "conv_tbc"),
}
"""By operator. One that this torch lacks stands there unused; one that is imported later is known already."""
