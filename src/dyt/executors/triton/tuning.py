"""How the kernels are launched: tiles and their tuning, and which kernels are joined. Imports triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import triton

from dyt.executors.triton import adapter_kernel, kernels

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
ADAPTER_TILES = (
    (32, 128, 128, 8, 3),
    (32, 64, 128, 8, 4),
    (16, 128, 128, 4, 3),
    (64, 64, 128, 8, 3),
)
"""(tokens, depth, columns, warps, stages) that are tried for the adapter: with d = 64 in half precision
none needs more than 130 registers, so that programs share a multiprocessor."""
COMPACTED = 2048
"""Tokens that one program of `compact` looks at."""
PACKED, COUNTED = 8, 4096
"""Tokens that one program of `pack_norm` packs, and of those before it that it counts at a time."""
TAIL = (64, 128, 64, 4, 3, 3)
EXACT_TAIL = (64, 64, 32, 4, 2, 3)
"""As `TILES`, of the two joined kernels that end with what is beyond the rows: seldom anything, so it is not tuned."""
TAIL_PIECE, TAIL_ROWS = 4096, 4
"""Numbers, and rows, that one program of these looks at a time before that."""

JOINED = frozenset({"residual", "pack"})
"""Which neighbours are launched as one kernel; each set of them gives the same numbers.

`residual`: the attention's sum with the adapter; `pack`: compaction with gather and norm; `tail`: GELU, and writing
back, each with the product of the rows beyond those that torch multiplies. Read at every launch, so that a benchmark
can compare them.
"""


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
_tuned = partial(
    triton.autotune, key=["IN", "OUT", "SCATTER", "size", "PRECISION"], restore_value=["out"], do_bench=_timed
)
pointers = _tuned(configs=_configs(TILES))(kernels.linear)
exact = _tuned(configs=_configs(EXACT_TILES))(kernels.linear)
described = _tuned(configs=_configs(DESCRIPTOR_TILES, _sized))(kernels.linear_by_descriptor)


adapter = triton.autotune(
    key=["C", "WIDTH", "ROUTED", "RESIDUAL", "size", "PRECISION"],
    do_bench=_timed,
    configs=[
        triton.Config({"ROWS": rows, "DEPTH": depth, "COLUMNS": columns}, num_warps=warps, num_stages=stages)
        for rows, depth, columns, warps, stages in (((16, 16, 16, 4, 1),) if INTERPRETED else ADAPTER_TILES)
    ],
)(adapter_kernel.adapter)


def is_exact(a: torch.Tensor) -> bool:
    """Whether products of this tensor are of float32 that is not rounded to TF32."""
    return a.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU, that persistent programs share out."""
    return 3 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count
