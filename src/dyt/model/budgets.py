"""`dyt.budgets`: each image of a batch at a rate of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dyt.core import context
from dyt.errors import DyTError, UnsupportedError, quoted
from dyt.model.budget import number
from dyt.model.dynamic import contextual


@contextmanager
def budgets(model: nn.Module, rates: float | Sequence[float] | Tensor) -> Iterator[None]:
    """Inside, each image is computed at a rate of its own: with the thresholds that `model.budget` would set for it.

    Nothing is stored on the model, so that other threads and `model.budget` are not disturbed. An image's outputs and
    routes are those that it has alone. `dyt.forced` and `dyt.execution(model, "complete")` win over it.

    Args:
        model: the dynamic model, plain or optimised, or what wraps it; calibrated by `dyt.calibrate_budgets`.
        rates: one for all images, whatever their number; or one for each image of every batch inside, (B,).

    Raises:
        DyTError: no table, no rates, one that is outside of the table; in a forward, a batch of another size.
        UnsupportedError: several rates for a model of clips.
    """
    inside = contextual(model)
    table = inside.calibrated_table()
    if isinstance(rates, Tensor):
        if rates.ndim > 1:
            raise DyTError(f"budgets: rates are one number or (B,); given a tensor of shape {tuple(rates.shape)}")
        rates = rates.tolist()
    single = not isinstance(rates, Sequence)
    if isinstance(rates, str) or (isinstance(rates, Sequence) and not rates):
        raise DyTError(f"budgets: rates are one number, or one for each image; given {quoted(rates)}")
    asked = [number(rate) for rate in rates] if isinstance(rates, Sequence) else [number(rates)]
    if not single and len(inside.head.input_shape((1, 1))) != 3:
        raise UnsupportedError("budgets: a model of clips takes one rate for all; the frames of a clip are one input")
    known = {rate: table.thresholds(rate) for rate in dict.fromkeys(asked)}
    found = []
    for site in inside.sites:
        own = [known[rate][site.name] for rate in asked]
        threshold = torch.tensor(own, dtype=torch.float32, device=site.threshold.device)
        found.append(threshold[0] if single else threshold.unsqueeze(1))
    with context.changed(inside.key, thresholds=tuple(found)):
        yield
