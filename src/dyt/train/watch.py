"""What a training step shows beside its loss: the dynamic pass's routes and logits. And the sums of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dyt.core.ranks import summed
from dyt.model.dynamic import DynamicModel, record

PARTS = ("total", "cls", "complete", "distill", "features", "rate")


class Sums:
    """Sums over the steps of an epoch, on the model's device until asked for; saved and restored with a checkpoint."""

    def __init__(self, model: DynamicModel, device: torch.device) -> None:
        self.model, self.sites = model, [site.name for site in model.sites]
        # counted: passes, images, right; then the parts of the loss; then active and patches by site
        self.values = torch.zeros(3 + len(PARTS) + 2 * len(self.sites), device=device)

    @contextmanager
    def watching(self, targets: Any) -> Iterator[dict[str, Tensor]]:
        """Adds what the one TuningStep forward inside did; its parts are put into the mapping that this yields."""
        parts: dict[str, Tensor] = {}
        logits: list[Any] = []
        hook = self.model.register_forward_hook(lambda module, args, out: logits.append(_detached(out)))
        try:
            with record(self.model) as routes:
                yield parts
        finally:
            hook.remove()
        with torch.no_grad():
            right, of = self.model.head.tally(logits[0], targets)  # the dynamic pass is first
            counts = [route.counts() for route in routes[: len(self.sites)]]
            row = [right.new_tensor(1), right.new_tensor(of), right, *(parts[name] for name in PARTS)]
            row += [active.sum() for active, _ in counts] + [patches.sum() for _, patches in counts]
            self.values += torch.stack([value.to(self.values) for value in row])

    def report(self, joint: bool = True) -> dict[str, Any]:
        """Means so far: loss and its parts, training accuracy (None of a head that tallies none), active rate overall
        and by site under training noise.

        Args:
            joint: over all processes; then all must call.
        """
        values = summed(self.values) if joint else self.values.cpu().double()
        passes, images, right = values[:3].tolist()
        first, sites = 3 + len(PARTS), len(self.sites)
        active, patches = values[first : first + sites], values[first + sites :]
        parts = (values[3:first] / max(passes, 1.0)).tolist()
        return {
            "loss": parts[0],
            **dict(zip(PARTS[1:], parts[1:], strict=True)),
            "accuracy": right / images if images else None,
            "active_rate": float(active.sum() / patches.sum().clamp_min(1)),
            "active_rates": dict(zip(self.sites, (active / patches.clamp_min(1)).tolist(), strict=True)),
        }


def in_words(row: Mapping[str, Any], speed: float, unit: str) -> str:
    """What `report` found, in a line."""
    accuracy = "" if row["accuracy"] is None else f"  acc {row['accuracy']:.1%}"
    return f"loss {row['loss']:.3f}{accuracy}  active {row['active_rate']:.3f}  {speed:.1f} {unit}s/s"


def _detached(outputs: Any) -> Any:
    return tree_map(lambda value: value.detach() if isinstance(value, Tensor) else value, outputs)


def floats(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested metrics as flat `a/b` names, for TensorBoard."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= floats(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            flat[f"{prefix}{name}"] = float(value)
    return flat
