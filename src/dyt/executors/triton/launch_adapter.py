"""The launch of the adapter's kernel. Imports triton; only `operators` imports this file."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from dyt.executors.triton import tuning
from dyt.executors.unseen import unseen


def adapted(
    x: Tensor,
    down: tuple[Tensor, Tensor],
    up: tuple[Tensor, Tensor],
    router: tuple[Tensor, Tensor] | None,
    activation: str,
    branch: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """With y = x + branch: y, y + up(act(down(y))), and the router's logits of y in float32, in one pass.

    Args:
        x: (T, C), contiguous.
        down: (d, C) weight, (d,) bias.
        up: (C, d) weight, (C,) bias.
        router: (1, C) weight, (1,) bias; or None.
        activation: `relu` or `gelu`.
        branch: as x, or None for nothing to be added.

    Returns:
        (T, C) as x, x itself without a branch; (T, C) as x; (T,) float32, or (0,) without a router.
    """
    if branch is not None and "residual" not in tuning.JOINED:
        x, branch = x + branch, None
    total, channels = x.shape
    units = len(down[0])
    after, out = x if branch is None else torch.empty_like(x), torch.empty_like(x)
    logits = x.new_empty(total if router is not None else 0, dtype=torch.float32)
    if total == 0:
        return after, out, logits
    unseen("dyt.executors.triton.adapter", lambda: total * channels * (2 * units + (router is not None)))
    weight, bias = down if router is None else router
    tuning.adapter[lambda chosen: (triton.cdiv(total, chosen["ROWS"]),)](
        x,
        x if branch is None else branch,
        down[0].contiguous(),
        down[1],
        up[0].contiguous(),
        up[1],
        weight.contiguous(),
        bias,
        after,
        out,
        logits,
        total,
        triton.next_power_of_2(total),
        channels,
        units,
        WIDTH=max(triton.next_power_of_2(units), 16),
        ACTIVATION=activation,
        ROUTED=router is not None,
        RESIDUAL=branch is not None,
        PRECISION="ieee" if tuning.is_exact(x) else "tf32",
    )
    return after, out, logits
