"""Route: which tokens are active. Tokens: what a mixing branch is told about the tokens it is given. Both are frozen.

Shapes: B images, N tokens (prefix included), P = N - prefix patch tokens (padding included), K gathered tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dyt.core import draws


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a mixing branch receives beside x, so that a family can gather what it knows by position.

    Attributes:
        index: (B, K) int64, the original positions of the K tokens given; None for "all of them, in order".
        valid: (B, K) bool, False for a token that no other may see (it sees itself); None for "all valid".
        images: (B,) int64, which images of the batch they are of, where an executor runs some images alone; None for
            "all of them, in order". What the backbone passes beside x has the rows of the whole batch.
        bias: (B, 1 or N, N) float32 of all N tokens, added to the attention logits (queries by keys); None for nothing.
    """

    index: Tensor | None = None
    valid: Tensor | None = None
    images: Tensor | None = None
    bias: Tensor | None = None

    def sees(self) -> Tensor | None:
        """(B, 1, K, K) bool, True where a query may see a key, or None when every token sees every token.

        An invalid token sees itself as well, so that no row of the attention is empty; its output is discarded anyway.
        """
        if self.valid is None:
            return None
        itself = torch.eye(self.valid.shape[1], dtype=torch.bool, device=self.valid.device)
        return (self.valid[:, None, :] | itself)[:, None]


ALL_TOKENS = Tokens()
"""Every token, in order, each seen by all."""


@dataclass(frozen=True, eq=False)
class Route:
    """Which tokens of one dispatched branch are active in one forward.

    Attributes:
        active: (B, N) bool; prefix tokens always True, padding tokens always False.
        prefix: number of prefix tokens (class, register, distillation), first in order.
        gate: (B, N) float32 equal to `active` in value, carrying the straight-through gradient to the router; None when
            nothing is to be learned from this route (inference, forced, complete, a dispatcher without weights).
        told: (B, N) float32, what the gradient that the gate has of each token's branch is multiplied by; where it is
            0, nothing asks for the branch of an inactive token. None for 1 everywhere.
        padding: (B, N) bool, True at padding tokens; None when there are none.
        logits: (B, P) float32, the router's logits before noise, detached; None when no threshold decided.
        dense: True when it is known without looking that every token is active, so that no executor needs to select.
        site: the name of the branch, `blocks.3.mlp`.
        entered: (B, N, C) the tokens that entered the branch, in the graph; None unless the forward context keeps them.
        raster: (P,) int64 on the CPU, which patch token lies at each place of the image, row by row; None when the
            tokens are in that order.
    """

    active: Tensor
    prefix: int
    gate: Tensor | None = None
    padding: Tensor | None = None
    logits: Tensor | None = None
    dense: bool = False
    site: str = ""
    raster: Tensor | None = None
    entered: Tensor | None = None
    told: Tensor | None = None

    def summary(self) -> Tensor:
        """(B, C) float32: what stands for an image in the tokens that entered: the class token, or the mean patch."""
        assert self.entered is not None, "only routes recorded while the forward context keeps tokens have them"
        if self.prefix:
            return self.entered[:, 0].float()
        kept = self.entered.float()
        if self.padding is None:
            return kept.mean(1)
        real = (~self.padding).unsqueeze(-1)
        return (kept * real).sum(1) / real.sum(1).clamp_min(1)

    def patches(self) -> Tensor:
        """(M, C) float32: the patch tokens that entered, of all images; padding left out."""
        assert self.entered is not None, "only routes recorded while the forward context keeps tokens have them"
        entered = self.entered[:, self.prefix :].float()
        return entered.flatten(0, 1) if self.padding is None else entered[~self.padding[:, self.prefix :]]

    def mask(self, dtype: torch.dtype) -> Tensor:
        """(B, N, 1) in `dtype`: the multiplier M of the branch's output, with the straight-through gradient if any."""
        if self.gate is None or self.told is None:
            return (self.active if self.gate is None else self.gate).to(dtype).unsqueeze(-1)
        told = self.gate.detach() + (self.gate - self.gate.detach()) * self.told
        return told.to(dtype).unsqueeze(-1)

    def counts(self) -> tuple[Tensor, Tensor]:
        """((B,) active patch tokens, differentiable with a gate; (B,) patch tokens), float32, padding left out."""
        patches = (self.active.float() if self.gate is None else self.gate)[:, self.prefix :]
        if self.padding is None:
            total = torch.full_like(patches[:, 0], patches.shape[1]) if patches.shape[1] else patches.sum(1)
        else:
            total = (~self.padding[:, self.prefix :]).sum(1).float()
        return patches.sum(1), total

    @staticmethod
    def all(x: Tensor, prefix: int, padding: Tensor | None = None, site: str = "") -> Route:
        """The route of a complete model for x (B, N, C): every token but the padding is active."""
        if padding is not None:
            return Route(~padding, prefix, padding=padding, site=site)
        active = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return Route(active, prefix, dense=True, site=site)


class SharedPrefix:
    """What was computed before the first dispatcher decided.

    Attributes:
        entered: (B, N, C) the tokens that entered the first dynamic block; None until they have.
        branches: the branches of that block that read `entered` itself, and so no dispatcher's effect, (B, N, C).
    """

    def __init__(self, entered: Tensor | None = None, branches: dict[str, Tensor] | None = None) -> None:
        self.entered, self.branches = entered, branches or {}

    def of(self, images: int) -> SharedPrefix:
        """That of the first images."""
        assert self.entered is not None
        if images == len(self.entered):
            return self
        return SharedPrefix(self.entered[:images], {name: found[:images] for name, found in self.branches.items()})


def told(route: Route, share: float | None) -> Route:
    """The route whose gate is told of active tokens' branches, and of each inactive token's with this probability.

    The gradient of those that are drawn is divided by it, so that the gate's expected gradient is that of all; with 0
    none is drawn. With None the gate is left out.
    """
    if share is None or route.gate is None:
        return replace(route, gate=None)
    device = route.active.device
    drawn = draws.share(lambda shape: torch.rand(tuple(shape), device=device), route.active.shape) < share
    return replace(route, told=torch.where(route.active, 1.0, drawn / share if share else 0.0))


def activation_rate(routes: Sequence[Route]) -> tuple[Tensor, Tensor]:
    """(active, total): () float32 sums over the patch tokens of all routes; their quotient is the mean of M.

    Prefix and padding tokens are left out. `active` is differentiable where the routes have gates.
    """
    counts = [route.counts() for route in routes]
    return torch.stack([a.sum() for a, _ in counts]).sum(), torch.stack([t.sum() for _, t in counts]).sum()


def mean_token(x: Tensor, padding: Tensor | None = None) -> Tensor:
    """(B, 1, C) float32: the mean token of each image of x (B, N, C), padding (B, N) left out; zeros if none."""
    if padding is None:
        return x.sum(1, keepdim=True, dtype=torch.float32) / max(x.shape[1], 1)
    kept = x.masked_fill(padding.unsqueeze(-1), 0).sum(1, keepdim=True, dtype=torch.float32)
    return kept / (~padding).sum(1)[:, None, None].clamp_min(1)
