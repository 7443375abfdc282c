"""Matrix products that write onto the residual stream, and the weights that are folded into them."""

from __future__ import annotations

import torch
from timm.layers import LayerScale  # type: ignore[attr-defined]
from torch import Tensor, nn

from dyt.core.calls import bare
from dyt.core.offloading import at_hand


def add_linear(x: Tensor, h: Tensor, linear: nn.Linear) -> Tensor:
    """x + linear(h), for x (..., C) and h (..., D), as one product that accumulates onto x and the bias.

    Under autocast, where the product is in another precision than the residual stream, they stay two steps: x is not
    rounded. On a GPU as well: its product adds the bias by itself, and a compiler joins the sum to what comes next.
    """
    if _two_steps(x, h):
        added: Tensor = x + linear(h)
        return added
    with at_hand(linear):
        start = x.clone() if linear.bias is None else x + linear.bias
        return _accumulated(start, h, linear)


def add_linear_(x: Tensor, h: Tensor, linear: nn.Linear) -> Tensor:
    """As `add_linear`; x may be overwritten."""
    if _two_steps(x, h):
        return add_linear(x, h, linear)
    with at_hand(linear):
        return _accumulated(x if linear.bias is None else x.add_(linear.bias), h, linear)


def _two_steps(x: Tensor, h: Tensor) -> bool:
    return x.device.type == "cuda" or torch.is_autocast_enabled(x.device.type) or x.dtype != h.dtype


def _accumulated(start: Tensor, h: Tensor, linear: nn.Linear) -> Tensor:
    """start + h W^T, in the place of `start`: torch.addmm that returns another tensor begins with a copy.

    With `out=` and not as `addmm_`, which torch's FLOP counter does not know.
    """
    flat, rows, weight = start.reshape(-1, start.shape[-1]), h.reshape(-1, h.shape[-1]), linear.weight.t()
    graph = torch.is_grad_enabled() and (start.requires_grad or h.requires_grad or weight.requires_grad)
    out = torch.addmm(flat, rows, weight) if graph else torch.addmm(flat, rows, weight, out=flat)
    return out.reshape(start.shape)


def is_linear(module: nn.Module | None) -> bool:
    """Whether it is a linear layer of torch's own, with plain weights and without hooks: nobody else's hand in it."""
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter and bare(module)


def fixed(weight: Tensor, bias: Tensor | None, kind: type[nn.Linear] = nn.Linear) -> nn.Linear:
    """A linear layer of its own with a copy of these weights (out, in) and (out,), not trainable."""
    linear = kind(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear


def scales(module: nn.Module) -> bool:
    """Whether `scaled` can fold a block's `ls1` or `ls2`: a LayerScale of timm's, or none."""
    return type(module) in {LayerScale, nn.Identity}


def scaled(linear: nn.Linear, factor: Tensor | float | nn.Module) -> nn.Linear:
    """The layer whose output is `factor` times that of `linear`; a number, a tensor () or (out,), or a layer scale."""
    if isinstance(factor, nn.Identity):
        return fixed(linear.weight, linear.bias)
    by = factor.gamma if isinstance(factor, LayerScale) else factor
    assert not isinstance(by, nn.Module)
    rows = torch.as_tensor(by, dtype=linear.weight.dtype, device=linear.weight.device).reshape(-1)
    return fixed(linear.weight * rows[:, None], None if linear.bias is None else linear.bias * rows)
