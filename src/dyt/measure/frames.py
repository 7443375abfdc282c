"""Temporal activation statistics: how the frames of clips share the active tokens.

Shapes: B clips, T frames each, S sites.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from dyt.core.route import Route
from dyt.errors import DyTError
from dyt.measure.activity import routes_of


@torch.no_grad()
def frame_rates(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """The mean of M over the patch tokens of each frame of a clip, site by site, at inference.

    Prefix and padding tokens are left out. The model's train or eval mode is left as it was.

    Args:
        model: a dynamic model, or what wraps it, with a head that takes clips.
        batches: clips (B, T, 3, H, W) each, all of the same T.

    Returns:
        (S, T) float32 on the CPU, in [0, 1], sites in forward order.

    Raises:
        DyTError: no batches, batches that are not of clips, or clips of different lengths.
    """
    total, clips, length = torch.zeros(0), 0, 0
    for batch in batches:
        if batch.ndim != 5 or (clips and batch.shape[1] != length):
            wanted = f"{length} frames" if clips else "(clips, frames, 3, height, width)"
            raise DyTError(f"frame_rates: given a batch of shape {tuple(batch.shape)}, expected clips of {wanted}")
        rates = rates_by_frame(routes_of(model, batch), batch.shape[1]) * len(batch)
        total, length, clips = (total + rates if clips else rates), batch.shape[1], clips + len(batch)
    if not clips:
        raise DyTError("frame_rates: no clips were given")
    return total / clips


def rates_by_frame(routes: Sequence[Route], frames: int) -> Tensor:
    """(S, T) float32 on the CPU: the mean of M over the patch tokens of each frame, over the clips of one forward.

    Args:
        routes: of a forward of clips, whose rows are frames, clip by clip.
        frames: T.
    """
    found = torch.zeros(len(routes), frames)
    for i, route in enumerate(routes):
        active, patches = (count.detach().cpu().reshape(-1, frames).sum(0) for count in route.counts())
        found[i] = active / patches.clamp_min(1)
    return found
