"""The launches: buffers, grids, and the tuning of the tiles. Imports triton; only `operators` imports this file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from dyt.executors.triton.kernels import (
    adapter,
    compact,
    gather_norm,
    gelu_rows,
    linear,
    linear_by_descriptor,
    scatter_rows,
)
from dyt.executors.unseen import unseen

INTERPRETED = bool(triton.knobs.runtime.interpret)
TILES = ((128, 128, 64, 8, 3, 1), (128, 128, 32, 4, 3, 2), (64, 128, 64, 4, 3, 2), (32, 128, 64, 4, 3, 2))
"""(rows, columns, depth, warps, stages, programs on a multiprocessor) that are tried on a GPU, for each shape of the
weights."""
EXACT_TILES = ((64, 64, 32, 4, 2, 2),)
"""For float32 without TF32, which no matrix unit computes: larger tiles would not fit into registers."""
DESCRIPTOR_TILES = ((128, 256, 64, 8, 3, 1), (128, 128, 64, 8, 3, 2), (128, 128, 64, 4, 3, 2), (64, 128, 64, 4, 4, 2))
"""Those that are tried where a copy engine loads tiles: on GPUs of capability 9.0 and up."""
ALIGNMENT = 16
"""Bytes that the rows of a tensor must be a multiple of for that engine."""
GELU_BLOCK = 1024
"""Numbers that one program of `gelu_rows` looks at."""
ADAPTER_TILES = ((32, 128, 256, 4, 3), (16, 128, 256, 4, 3), (64, 128, 128, 4, 2), (64, 64, 256, 8, 3))
"""(tokens, depth, columns, warps, stages) that are tried for the adapter."""
COMPACTED = 2048
"""Tokens that one program of `compact` looks at."""


def _sized(arguments: dict[str, Any]) -> None:
    """Gives the descriptors the tile sizes of the configuration that is about to run."""
    depth = arguments["DEPTH"]
    arguments["a"].block_shape = [arguments["ROWS"], depth]
    arguments["weight"].block_shape = [arguments["COLUMNS"], depth]


def _configs(tiles: Sequence[tuple[int, ...]], hook: Callable[[dict[str, Any]], None] | None = None) -> list[Any]:
    if INTERPRETED:
        tiles = ((16, 16, 16, 4, 1, 1),)
    return [
        triton.Config(
            {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth, "RESIDENT": resident},
            num_warps=warps,
            num_stages=stages,
            pre_hook=hook,
        )
        for rows, columns, depth, warps, stages, resident in tiles
    ]


def _timed(call: Callable[[], None], quantiles: Sequence[float]) -> Any:
    """Of replayed CUDA graphs: launching takes the host longer than a small product takes the GPU."""
    return triton.testing.do_bench_cudagraph(call, rep=20, quantiles=quantiles)


# Tried again for another power of two of the rows that there may be: how many there are is known to the device alone.
KEY = ["IN", "OUT", "SCATTER", "size", "PRECISION"]
_tuned = partial(
    triton.autotune, key=["IN", "OUT", "SCATTER", "size", "PRECISION"], restore_value=["out"], do_bench=_timed
)
_linear = _tuned(configs=_configs(TILES))(linear)
_exact = _tuned(configs=_configs(EXACT_TILES))(linear)
_described = _tuned(configs=_configs(DESCRIPTOR_TILES, _sized))(linear_by_descriptor)


_adapter = triton.autotune(
    key=["C", "WIDTH", "ROUTED", "size", "PRECISION"],
    do_bench=_timed,
    configs=[
        triton.Config({"ROWS": rows, "DEPTH": depth, "COLUMNS": columns}, num_warps=warps, num_stages=stages)
        for rows, depth, columns, warps, stages in (((16, 16, 16, 4, 1),) if INTERPRETED else ADAPTER_TILES)
    ],
)(adapter)


def mlp_onto(
    x: Tensor,
    active: Tensor,
    norm: tuple[Tensor, Tensor, float],
    fc1: tuple[Tensor, Tensor | None],
    fc2: tuple[Tensor, Tensor | None],
    scale: Tensor | None,
    out: Tensor,
    rows: int = 0,
) -> None:
    """Adds scale * fc2(gelu(fc1(norm(x)))) to `out` at the active tokens; nothing waits for the device.

    The first `rows` rows are multiplied by torch's own products, whose number of rows the host has to know, and however
    many there are beyond them by kernels that read the count. So the numbers never depend on `rows`, and the time does.

    Args:
        x: (T, C), contiguous.
        active: (T,) bool.
        norm: (C,) weight, (C,) bias, eps.
        fc1: (D, C) weight, (D,) bias or None.
        fc2: (C, D) weight, (C,) bias or None.
        scale: (C,) or None.
        out: (T, C), contiguous; it may be x.
        rows: as many as there usually are; 0 leaves all to the kernels.
    """
    total, channels = x.shape
    if total == 0:
        return
    assert x.is_contiguous()
    assert out.is_contiguous()
    index, count = x.new_empty(total, dtype=torch.int32), x.new_empty((), dtype=torch.int32)
    compact[(triton.cdiv(total, COMPACTED),)](
        active.contiguous().view(torch.uint8), index, count, total, BLOCK=COMPACTED, num_warps=8
    )
    normed, middle = x.new_empty(total, channels), x.new_empty(total, len(fc1[0]))
    weight, bias, eps = norm
    block = triton.next_power_of_2(channels)
    gather_norm[(total,)](x, index, count, weight, bias, normed, eps, C=channels, BLOCK=block)
    rows = min(rows, total)
    if rows:
        _counted_rows(normed[:rows], middle[:rows], fc1, fc2, scale, index, count, out)
    if rows < total:
        product(normed, *fc1, None, index, count, middle, gelu=True, scatter=False, first=rows)
        product(middle, *fc2, scale, index, count, out, gelu=False, scatter=True, first=rows)


def _counted_rows(
    normed: Tensor,
    middle: Tensor,
    fc1: tuple[Tensor, Tensor | None],
    fc2: tuple[Tensor, Tensor | None],
    scale: Tensor | None,
    index: Tensor,
    count: Tensor,
    out: Tensor,
) -> None:
    """The branch for rows normed (R, C), of which those from `count` on hold anything and are not written anywhere."""
    rows, channels = normed.shape
    width = middle.shape[1]
    (weight, bias), (last_weight, last_bias) = fc1, fc2
    if bias is None:
        torch.mm(normed, weight.t(), out=middle)
    else:
        torch.addmm(bias, normed, weight.t(), out=middle)
    gelu_rows[(rows, triton.cdiv(width, GELU_BLOCK))](middle, count, rows, width, BLOCK=GELU_BLOCK)
    last = middle @ last_weight.t()
    scatter_rows[(rows,)](
        last,
        last if last_bias is None else last_bias,
        last if scale is None else scale,
        index,
        count,
        rows,
        out,
        channels,
        BIAS=last_bias is not None,
        SCALE=scale is not None,
        BLOCK=triton.next_power_of_2(channels),
    )


def product(
    a: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    index: Tensor,
    count: Tensor,
    out: Tensor,
    gelu: bool,
    scatter: bool,
    first: int = 0,
    described: bool | None = None,
) -> None:
    """out = scale * gelu(a weight^T + bias) for the first `count` rows of a (T, IN); with `scatter` added at `index`.

    Args:
        first: the row from which on they are computed.
        described: whether tiles are loaded through descriptors; None where the GPU has an engine for it and rows are
            aligned.
    """
    width, channels = weight.shape
    unseen("dyt.executors.triton.linear", lambda: max(int(count) - first, 0) * width * channels)
    processors = 3 if INTERPRETED else torch.cuda.get_device_properties(a.device).multi_processor_count
    exact = a.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    weight = weight.contiguous()
    if described is None:
        described = _has_engine(a.device) and channels * a.element_size() % ALIGNMENT == 0 and not exact
    kernel, given = _exact if exact else _linear, (a, weight)
    if described:
        kernel = _described
        given = TensorDescriptor.from_tensor(a, [1, 1]), TensorDescriptor.from_tensor(weight, [1, 1])
    kernel[lambda chosen: (processors * chosen["RESIDENT"],)](
        *given,
        weight if bias is None else bias,
        weight if scale is None else scale,
        index,
        count,
        out,
        first,
        triton.next_power_of_2(len(a)),
        channels,
        width,
        BIAS=bias is not None,
        GELU=gelu,
        SCALE=scale is not None,
        SCATTER=scatter,
        ADD=scatter,
        PRECISION="ieee" if exact else "tf32",
    )


def adapted(
    x: Tensor,
    down: tuple[Tensor, Tensor],
    up: tuple[Tensor, Tensor],
    router: tuple[Tensor, Tensor] | None,
    activation: str,
) -> tuple[Tensor, Tensor]:
    """x + up(act(down(x))), and the router's logits in float32, in one pass.

    Args:
        x: (T, C), contiguous.
        down: (d, C) weight, (d,) bias.
        up: (C, d) weight, (C,) bias.
        router: (1, C) weight, (1,) bias; or None.
        activation: `relu` or `gelu`.

    Returns:
        (T, C) as x; (T,) float32, or (0,) without a router.
    """
    total, channels = x.shape
    units = len(down[0])
    out = torch.empty_like(x)
    logits = x.new_empty(total if router is not None else 0, dtype=torch.float32)
    if total == 0:
        return out, logits
    unseen("dyt.executors.triton.adapter", lambda: total * channels * (2 * units + (router is not None)))
    exact = x.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    weight, bias = down if router is None else router
    _adapter[lambda chosen: (triton.cdiv(total, chosen["ROWS"]),)](
        x,
        down[0].contiguous(),
        down[1],
        up[0].contiguous(),
        up[1],
        weight.contiguous(),
        bias,
        out,
        logits,
        total,
        triton.next_power_of_2(total),
        channels,
        units,
        WIDTH=max(triton.next_power_of_2(units), 16),
        ACTIVATION=activation,
        ROUTED=router is not None,
        PRECISION="ieee" if exact else "tf32",
    )
    return out, logits


def _has_engine(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
