"""Which operators multiply, of those that no formula is known of: too little is never counted in silence.

torch's own operators tell by their names. What another library's operator does is not known: one that takes two tensors
or more may multiply them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

_NAMESPACES = (
    "aten prim prims inductor inductor_prims rngprims debugprims profiler export c10d fsdp _c10d_functional "
    "_c10d_functional_autograd _dtensor symm_mem quantized _quantized quantized_decomposed onednn mkldnn "
    "mkldnn_prepacked mkl sparse static_runtime torchvision image torchao streams"
)
TELLING = frozenset(_NAMESPACES.split())
"""Namespaces whose operators tell by their names whether they multiply."""
_MULTIPLIES = re.compile(
    r"mm(?![a-z])|mv(?![a-z])|dot|conv(?!ert)|attention|attn|sdpa|linear|matmul|gemm|einsum|^inner$|rnn|lstm|gru|mha|"
    r"multi_head|transformer|cdist|euclidean|trilinear|linalg|cholesky|triangular_solve|ormqr|orgqr|geqrf|lu_solve|fft|"
    r"(?<![a-z])(mlp|ffn|moe|lora|swiglu)(?![a-z])"
)
_FREE = re.compile(
    r"upsample|prepack|unpack|reorder|quantize_weight|pack_gemm|pack_quantized|flatten_weight|_thnn_fused|"
    r"fft_r?fftfreq|plan_cache|linalg_(vector_norm|_powsum|cross|diagonal|check_errors)|_available|supported|sdp_choice"
)
# Interpolation between pixels, how weights are laid out, and what only asks: nothing is summed over channels.


@cache
def _by_name(name: str) -> bool:
    base = name.partition("::")[2] or name
    return bool(_MULTIPLIES.search(base)) and not _FREE.search(base)


def multiplies(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operator `namespace::name` without a formula must be taken to multiply what it is given."""
    if _by_name(name):
        return True
    return name.partition("::")[0] not in TELLING and sum(map(_operand, tree_leaves((args, kwargs)))) > 1


def _operand(x: Any) -> bool:
    """What can be multiplied: numbers in a tensor, or packed weights; no mask, and no single number."""
    if isinstance(x, Tensor):
        return x.dtype != torch.bool and x.dim() > 0
    return isinstance(x, torch.ScriptObject)
