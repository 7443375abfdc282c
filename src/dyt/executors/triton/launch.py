"""The launches: buffers, grids, and the tuning of the tiles. Imports triton; only the executor imports this file."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor, nn

from dyt.core.execution import MLPBranch
from dyt.executors.triton.kernels import gather_norm, linear
from dyt.executors.unseen import unseen

INTERPRETED = bool(triton.knobs.runtime.interpret)
TILES = ((128, 128, 32, 4), (128, 128, 64, 8), (128, 256, 64, 8), (64, 128, 64, 4), (32, 128, 64, 4))
"""(rows, columns, depth, warps) that are tried on a GPU, for each shape of the weights."""


def _configs() -> list[Any]:
    if INTERPRETED:
        return [triton.Config({"ROWS": 16, "COLUMNS": 16, "DEPTH": 16})]
    return [
        triton.Config({"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}, num_warps=warps, num_stages=3)
        for rows, columns, depth, warps in TILES
    ]


# Tried again for another power of two of the rows that there may be: how many there are is known to the device alone.
_linear = triton.autotune(configs=_configs(), key=["IN", "OUT", "SCATTER", "size", "PRECISION"])(linear)


def mlp(x: Tensor, index: Tensor, count: Tensor, branch: MLPBranch) -> Tensor:
    """The branch at the tokens index[:count] of x (T, C), 0 at all others; index (T,) int64, count () int64."""
    total, channels = x.shape
    hidden = branch.fc1.out_features
    normed, middle = x.new_empty(total, channels), x.new_empty(total, hidden)
    out = x.new_zeros(total, branch.fc2.out_features)
    if total == 0:
        return out
    norm = branch.norm
    gather_norm[(total,)](
        x.contiguous(),
        index,
        count,
        norm.weight,
        norm.bias,
        normed,
        norm.eps,
        C=channels,
        BLOCK=triton.next_power_of_2(channels),
    )
    _launch(normed, branch.fc1, None, index, count, middle, gelu=True, scatter=False)
    _launch(middle, branch.fc2, branch.scale, index, count, out, gelu=False, scatter=True)
    return out


def _launch(
    a: Tensor,
    layer: nn.Linear,
    scale: Tensor | None,
    index: Tensor,
    count: Tensor,
    out: Tensor,
    gelu: bool,
    scatter: bool,
) -> None:
    unseen("dyt.executors.triton.linear", lambda: int(count) * layer.in_features * layer.out_features)
    programs = 3 if INTERPRETED else torch.cuda.get_device_properties(a.device).multi_processor_count
    exact = a.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    _linear[(programs,)](
        a,
        layer.weight.contiguous(),
        layer.bias if layer.bias is not None else layer.weight,
        scale if scale is not None else layer.weight,
        index,
        count,
        out,
        programs,
        triton.next_power_of_2(len(a)),
        IN=layer.in_features,
        OUT=layer.out_features,
        BIAS=layer.bias is not None,
        GELU=gelu,
        SCALE=scale is not None,
        SCATTER=scatter,
        PRECISION="ieee" if exact else "tf32",
    )
