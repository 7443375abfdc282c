"""`moe`: a mixture of E bottleneck adapters whose weights are mixed for each image (paper section 3.4, eq. 7).

Shapes: B images, N tokens, C channels, d hidden units, E experts.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from dyt.adapters.projection import Projection, ProjectionSpec
from dyt.core.route import mean_token
from dyt.core.scores import Router, routed
from dyt.registry import adapters

LARGEST = 16_384
"""Hidden units of all experts together, twenty times those of the paper's largest."""


class MoESpec(ProjectionSpec):
    """`moe`: the paper's MoE-adapter (section 3.4), a mixture of bottleneck adapters for each image."""

    type: str = "moe"
    experts: Annotated[int, Field(ge=1, le=256)] = 4
    """Number of experts E; 2, 4, 8 and 12 in the paper's table 2."""
    normalisation: Literal["softmax", "sigmoid", "none"] = "softmax"
    """How the router's E logits become the experts' weights, which the paper does not say. `softmax`: they sum to 1;
    `sigmoid`: each is between 0 and 1 by itself; `none`: the logits themselves, of any size, so that the adapter is
    cubic in its tokens (`input: normalised` keeps it from overflowing)."""

    @model_validator(mode="after")
    def _holdable(self) -> MoESpec:
        if self.experts * self.dim > LARGEST:
            raise ValueError(
                f"{self.experts} experts of dim {self.dim} are too many; experts * dim is at most {LARGEST}"
            )
        return self


class Experts(nn.Module):
    """E linear maps C_in -> C_out; each image uses a mixture of them: x W^T + b, W = sum_i alpha_i W_i, and b likewise.

    Mixing first costs E (C_in + 1) C_out multiply-accumulates per image, and then N C_in C_out for the one map. The
    other order, E maps of x and then alpha, would cost E times N C_in C_out.

    Attributes:
        weight: (E, C_out, C_in).
        bias: (E, C_out).
    """

    def __init__(self, experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(experts, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(experts, outputs))

    def forward(self, x: Tensor, alpha: Tensor) -> Tensor:
        """(B, N, C_in) -> (B, N, C_out) with the mixture alpha (B, E) float32 of each image."""
        alpha = alpha.to(self.weight.dtype)
        weight = (alpha @ self.weight.flatten(1)).view(alpha.shape[0], *self.weight.shape[1:])
        return torch.bmm(x, weight.mT) + (alpha @ self.bias).unsqueeze(1)


@adapters("moe")
class MoE(Projection):
    """s * up(relu(down(X))) with down and up mixed from E experts by alpha = softmax(mean(X) W_r + b_r), one per image.

    The mean is over all tokens of the image, prefix included, padding left out. The router is initialised like those of
    dispatchers, each expert like a bottleneck adapter, so a new adapter adds exactly zero. Router and alpha are
    float32, also under autocast.
    """

    Spec = MoESpec

    def __init__(self, spec: MoESpec, dim: int) -> None:
        super().__init__(spec, dim)
        self.normalisation = spec.normalisation
        self.router = Router(dim, spec.experts)
        self.down = Experts(spec.experts, dim, spec.dim)
        self.up = Experts(spec.experts, spec.dim, dim)
        nn.init.trunc_normal_(self.router.weight, std=0.02)
        nn.init.zeros_(self.router.bias)
        for weight in self.down.weight:  # one by one: the fan-in is that of one expert
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def alpha(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, E) float32, the weights of the experts for the tokens x (B, N, C); padding (B, N) is left out."""
        logits = routed(self.router, mean_token(x, padding).squeeze(1))
        if self.normalisation == "none":
            return logits
        return logits.softmax(-1) if self.normalisation == "softmax" else logits.sigmoid()

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        alpha = self.alpha(x, padding)
        return self.delta(x, partial(self.down, alpha=alpha), partial(self.up, alpha=alpha))
