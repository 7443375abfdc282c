"""Each operator's formula against arithmetic from shapes, also of operators that this torch or this machine lacks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dyt.measure.flops import formula_of

B, H, Q, K, D, E = 2, 4, 5, 7, 8, 6
ENDS, KEY_ENDS = (0, 2, 5), (0, 3, 7)
PAIRS = 2 * 3 + 3 * 4
"""Queries times keys of the two sequences with these ends."""


def m(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ends(values: tuple[int, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


QKV = (m(B, H, Q, D), m(B, H, K, D), m(B, H, K, E))
GROUPED = (QKV[0], m(B, 2, K, D), m(B, 2, K, E))
ROWS = (m(B, Q, H, D), m(B, K, H, D), m(B, K, H, E))
PACKED = (m(5, H, D), m(7, H, D), m(7, H, E))
SELF = m(B, Q, D)
BEHIND = (ends(ENDS), ends(KEY_ENDS), 3, 4)
DENSE, VARLEN = B * H * Q * K * (D + E), PAIRS * H * (D + E)
ATTENTION = (
    "flash_attention",
    "flash_attention_for_cpu",
    "efficient_attention",
    "cudnn_attention",
    "fused_attention_overrideable",
    "attention_math_for_mps",
)
HEADS = 4 * B * Q * D * D + 2 * B * Q * Q * D
A, W, OUT = m(3, 8), m(8, 6), m(3, 6)
N = 3 * 8 * 6
FIRST = (
    "mm",
    "_int_mm",
    "_scaled_mm",
    "_scaled_mm_v2",
    "_weight_int8pack_mm",
    "_weight_int4pack_mm",
    "linear",
    "matmul",
)
CASES: dict[str, tuple[str, Any, tuple[Any, ...], int]] = {
    **{name: (f"aten::_scaled_dot_product_{name}", None, QKV, DENSE) for name in ATTENTION},
    "attention": ("aten::scaled_dot_product_attention", None, QKV, DENSE),
    "grouped queries": (
        "aten::_scaled_dot_product_flash_attention",
        None,
        (QKV[0], m(B, 2, K, D), m(B, 2, K, E)),
        DENSE,
    ),
    "flex": ("flex_attention", None, (*QKV, None, (), 1.0, {}), DENSE),
    "flash": ("aten::_flash_attention_forward", None, (*ROWS, None, None, Q, K), DENSE),
    "flash, ends": ("aten::_flash_attention_forward", None, (*PACKED, *BEHIND), VARLEN),
    "flash, ends of the queries": (
        "aten::_flash_attention_forward",
        None,
        (m(5, H, D), m(5, H, D), m(5, H, E), ends(ENDS), None, 3, 3),
        (2 * 2 + 3 * 3) * H * (D + E),
    ),
    "flash, ends unknown": (
        "aten::_flash_attention_forward",
        None,
        (*PACKED, ends(ENDS).to("meta"), ends(KEY_ENDS).to("meta"), 3, 4),
        2 * 3 * 4 * H * (D + E),
    ),
    "flash, in place": (
        "aten::_flash_attention_forward_no_dropout_inplace",
        None,
        (m(B, Q, H, E), *ROWS, None, None, Q, K),
        DENSE,
    ),
    "efficient": ("aten::_efficient_attention_forward", None, (*ROWS, None, None, None, Q, K), DENSE),
    "efficient, ends": (
        "aten::_efficient_attention_forward",
        None,
        (*(x[None] for x in PACKED), None, *BEHIND),
        VARLEN,
    ),
    "cudnn": ("aten::_cudnn_attention_forward", None, (*QKV, None, None, None, Q, K), DENSE),
    "cudnn, ends": ("aten::_cudnn_attention_forward", None, (*PACKED, None, *BEHIND), VARLEN),
    "varlen": ("torch_attn::_varlen_attn", None, (*PACKED, *BEHIND, False), VARLEN),
    "varlen, keys that are used": (
        "torch_attn::_varlen_attn",
        None,
        (*PACKED, *BEHIND, False, None, None, False, ends((1, 2))),
        (2 * 1 + 3 * 2) * H * (D + E),
    ),
    "varlen, into": ("torch_attn::_varlen_attn_out", None, (m(5, H, E), *PACKED, *BEHIND, False), VARLEN),
    "multi-head": (
        "aten::_native_multi_head_attention",
        None,
        (SELF,) * 3 + (D, 2),
        4 * B * Q * D * D + 2 * B * Q * Q * D,
    ),
    "backward": (
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
        None,
        (m(B, H, Q, E), *QKV),
        B * H * Q * K * (3 * D + 2 * E),
    ),
    **{f"product {name}": (f"aten::{name}", OUT, (A, W), N) for name in FIRST},
    "quantised linear": ("quantized::linear", OUT, (A, object()), 3 * 8 * 6),
    "onednn linear": ("onednn::qlinear_pointwise", OUT, (A, 1.0, 0, m(6, 8)), 3 * 8 * 6),
    "mkldnn linear": ("mkldnn::_linear_pointwise", OUT, (A, m(6, 8), None), 3 * 8 * 6),
    "torchao": ("torchao::int_scaled_matmul", OUT, (A, W, m(3, 1)), 3 * 8 * 6),
    "addmm": ("aten::addmm", OUT, (m(6), A, W), 3 * 8 * 6),
    "addmm_": ("aten::addmm_", OUT, (OUT, A, W), 3 * 8 * 6),
    "addmv": ("aten::addmv", m(3), (m(3), A, m(8)), 3 * 8),
    "mv": ("aten::mv", m(3), (A, m(8)), 3 * 8),
    "dot": ("aten::dot", m(), (m(8), m(8)), 8),
    "addr": ("aten::addr", OUT, (OUT, m(3), m(6)), 3 * 6),
    "bmm": ("aten::bmm", m(2, 3, 6), (m(2, 3, 8), m(2, 8, 6)), 2 * 3 * 8 * 6),
    "baddbmm": ("aten::baddbmm", m(2, 3, 6), (m(2, 3, 6), m(2, 3, 8), m(2, 8, 6)), 2 * 3 * 8 * 6),
    "addbmm": ("aten::addbmm", OUT, (OUT, m(2, 3, 8), m(2, 8, 6)), 2 * 3 * 8 * 6),
    "list": ("aten::_foreach_mm", [OUT, m(2, 6)], ([A, m(2, 4)], [W, m(4, 6)]), 3 * 8 * 6 + 2 * 4 * 6),
    "groups of rows": ("aten::_grouped_mm", m(9, 6), (m(9, 8), m(4, 8, 6)), 9 * 8 * 6),
    "groups of columns": ("aten::_grouped_mm", m(3, 9), (m(4, 3, 8), m(8, 9)), 3 * 8 * 9),
    "groups of depths": ("aten::_grouped_mm", m(4, 3, 6), (m(3, 9), m(9, 6)), 3 * 9 * 6),
    "groups": ("aten::_scaled_grouped_mm", m(4, 3, 6), (m(4, 3, 8), m(4, 8, 6)), 4 * 3 * 8 * 6),
    "bilinear": (
        "aten::_trilinear",
        m(2, 5),
        (m(2, 3), m(5, 3, 4), m(2, 4), [1, 3], [0], [1, 2], [2, 3]),
        2 * 3 * 4 * 5,
    ),
    "distances": ("aten::_cdist_forward", m(2, 3, 5), (m(2, 3, 8), m(2, 5, 8), 2.0, None), 2 * 3 * 5 * 8),
    "convolution": (
        "aten::convolution",
        m(2, 6, 3, 3),
        (m(2, 4, 4, 4), m(6, 2, 2, 2), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 2),
        2 * 6 * 9 * 2 * 4,
    ),
    "transposed convolution": (
        "aten::convolution",
        m(2, 10, 5, 5),
        (m(2, 4, 4, 4), m(4, 5, 2, 2), None, [1, 1], [0, 0], [1, 1], True, [0, 0], 2),
        2 * 4 * 16 * 5 * 4,
    ),
    "mkldnn convolution": (
        "aten::mkldnn_convolution",
        m(2, 6, 3, 3),
        (m(2, 4, 4, 4), m(6, 4, 2, 2)),
        2 * 6 * 9 * 4 * 4,
    ),
    "cudnn transposed": (
        "aten::cudnn_convolution_transpose",
        m(2, 5, 5, 5),
        (m(2, 4, 4, 4), m(4, 5, 2, 2)),
        2 * 4 * 16 * 5 * 4,
    ),
    "conv_tbc": ("aten::conv_tbc", m(7, 2, 6), (m(9, 2, 4), m(3, 4, 6), m(6)), 7 * 2 * 6 * 3 * 4),
    "deformable": ("torchvision::deform_conv2d", m(2, 6, 3, 3), (m(2, 4, 4, 4), m(6, 4, 2, 2)), 2 * 6 * 9 * 4 * 4),
}


@pytest.mark.parametrize("what", CASES)
def test_a_formula_is_what_arithmetic_says(what: str) -> None:
    name, out, args, expected = CASES[what]
    formula = formula_of(name)
    assert formula is not None
    assert formula(out, *args) == expected


def test_four_bit_floats_lie_two_in_an_element() -> None:
    packed = getattr(torch, "float4_e2m1fn_x2", None)
    if packed is None:
        pytest.skip("this torch has no packed 4-bit floats")
    formula = formula_of("aten::_scaled_mm")
    assert formula is not None
    assert formula(OUT, m(3, 4, dtype=packed), m(4, 6, dtype=packed)) == 3 * 8 * 6
