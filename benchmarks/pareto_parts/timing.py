"""Optimised models beside the dense one, in paired turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import dyt
from dyt.measure import paired
from dyt.model.dynamic import DynamicModel
from pareto_parts.methods import Contender

DENSE = "dense timm"


def quickened(model: DynamicModel, budget: float | None) -> Any:
    """The optimised model, at the same budget."""
    fast = dyt.optimize(model)
    if budget is not None:
        fast.budget = budget
    return fast


def turns(
    dense: nn.Module, models: Mapping[Contender, Any], chunks: Sequence[Tensor], pairs: int
) -> list[dict[str, Any]]:
    """How many times as fast as the dense model each is; a call runs all the chunks, which are on its device."""

    @torch.inference_mode()
    def call(model: nn.Module) -> None:
        for chunk in chunks:
            model(chunk)
        if chunks[0].is_cuda:
            torch.cuda.synchronize()

    functions = {DENSE: partial(call, dense)} | {one.name: partial(call, model) for one, model in models.items()}
    found = paired(functions, pairs=pairs)
    result = []
    for one, model in models.items():
        ratio = found.speedup(one.name, over=DENSE)
        made = sum(bool(block.rewrites) for block in model.report.blocks)
        row = {"method": one.method, "label": one.label, "rewritten": f"{made} of {len(model.report.blocks)}"}
        result.append(row | {"median": ratio.median, "low": ratio.low, "high": ratio.high, "pairs": ratio.pairs})
    return result
