"""The kernels as functions, which `torch.compile` takes as one operator of torch each.

Compiled code calls a registered operator, which it does not look into; all other code the launches themselves, so that
who counts multiplications sees them. Triton is imported when kernels are first launched, and not with this file.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from dyt.errors import UnsupportedError

CAPABILITY = (8, 0)
"""Of the oldest GPUs that have bfloat16 in their matrix units: Ampere."""


def refusal(device: torch.device) -> str | None:
    """Why the kernels cannot run on this device, or None when they can."""
    if find_spec("triton") is None:
        return "the package triton is not installed"
    if device.type == "cpu":
        from triton import knobs

        interpreted = bool(knobs.runtime.interpret)
        return None if interpreted else "it needs a GPU (or TRITON_INTERPRET=1 set before Python starts, for tests)"
    if device.type != "cuda" or torch.version.hip is not None:
        return f"it is for NVIDIA GPUs, not for '{device.type}'"
    major, minor = torch.cuda.get_device_capability(device)
    return None if (major, minor) >= CAPABILITY else f"it needs capability 8.0; this GPU has {major}.{minor}"


def mlp_onto(
    x: Tensor,
    active: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    scale: Tensor | None,
    out: Tensor,
    rows: int,
) -> None:
    """Adds scale * fc2(gelu(fc1(norm(x)))) to `out` at the active tokens; nothing waits for the device.

    Args:
        x: (T, C), contiguous.
        active: (T,) bool.
        norm_weight: (C,), of the LayerNorm.
        norm_bias: (C,), of the LayerNorm.
        eps: of the LayerNorm.
        fc1_weight: (D, C).
        fc1_bias: (D,), or None.
        fc2_weight: (C, D).
        fc2_bias: (C,), or None.
        scale: (C,) or None.
        out: (T, C), contiguous; in compiled code not x.
        rows: as many as there usually are: so many are multiplied by torch's own products; see `launch.mlp_onto`.

    Raises:
        UnsupportedError: the kernels cannot run on this device.
    """
    run = _mlp_onto if torch.compiler.is_compiling() else _launch_mlp
    run(x, active, norm_weight, norm_bias, eps, fc1_weight, fc1_bias, fc2_weight, fc2_bias, scale, out, rows)


def adapted(
    x: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    router_weight: Tensor | None,
    router_bias: Tensor | None,
    activation: str,
) -> tuple[Tensor, Tensor]:
    """x + up(act(down(x))), and the router's logits, in one pass over x.

    Args:
        x: (T, C), contiguous.
        down_weight: (d, C).
        down_bias: (d,).
        up_weight: (C, d).
        up_bias: (C,).
        router_weight: (1, C), or None for no router.
        router_bias: (1,), or None for no router.
        activation: `relu` or `gelu`.

    Returns:
        (T, C) as x; (T,) float32, or (0,) without a router.

    Raises:
        UnsupportedError: the kernels cannot run on this device.
    """
    run = _adapted if torch.compiler.is_compiling() else _launch_adapter
    return run(x, down_weight, down_bias, up_weight, up_bias, router_weight, router_bias, activation)


def joined(
    x: Tensor,
    branch: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    router_weight: Tensor | None,
    router_bias: Tensor | None,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """y = x + branch; then `adapted` of y, in the same pass, with the same weights.

    Args:
        x: (T, C), contiguous.
        branch: (T, C), contiguous, of the dtype of x.

    Returns:
        y, (T, C) as x; and what `adapted` gives of y.

    Raises:
        UnsupportedError: the kernels cannot run on this device.
    """
    run = _joined if torch.compiler.is_compiling() else _launch_joined
    return run(x, branch, down_weight, down_bias, up_weight, up_bias, router_weight, router_bias, activation)


def _launch_mlp(
    x: Tensor,
    active: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    scale: Tensor | None,
    out: Tensor,
    rows: int,
) -> None:
    _refuse(x.device)
    from dyt.executors.triton import launch

    launch.mlp_onto(
        x, active, (norm_weight, norm_bias, eps), (fc1_weight, fc1_bias), (fc2_weight, fc2_bias), scale, out, rows
    )


def _launch_adapter(
    x: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    router_weight: Tensor | None,
    router_bias: Tensor | None,
    activation: str,
) -> tuple[Tensor, Tensor]:
    weights = (down_weight, down_bias), (up_weight, up_bias), _pair(router_weight, router_bias)
    return _launched(x, *weights, activation, None)[1:]


def _launch_joined(
    x: Tensor,
    branch: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    router_weight: Tensor | None,
    router_bias: Tensor | None,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    weights = (down_weight, down_bias), (up_weight, up_bias), _pair(router_weight, router_bias)
    return _launched(x, *weights, activation, branch)


def _launched(
    x: Tensor,
    down: tuple[Tensor, Tensor],
    up: tuple[Tensor, Tensor],
    router: tuple[Tensor, Tensor] | None,
    activation: str,
    branch: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    _refuse(x.device)
    from dyt.executors.triton import launch_adapter

    return launch_adapter.adapted(x, down, up, router, activation, branch)


def _pair(weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return None if weight is None or bias is None else (weight, bias)


_mlp_onto = torch.library.custom_op("dyt::mlp_onto", _launch_mlp, mutates_args={"out"})
_adapted = torch.library.custom_op("dyt::adapted", _launch_adapter, mutates_args=())
_joined = torch.library.custom_op("dyt::joined", _launch_joined, mutates_args=())


@_mlp_onto.register_fake
def _(*given: object) -> None:
    """It gives nothing: it changes `out`."""


@_adapted.register_fake
def _(x: Tensor, *given: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), _no_logits(x, given[4])


@_joined.register_fake
def _(x: Tensor, *given: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x), _no_logits(x, given[5])


def _no_logits(x: Tensor, router_weight: object) -> Tensor:
    """What the logits of tokens x (T, C) are like."""
    return x.new_empty(0 if router_weight is None else x.shape[0], dtype=torch.float32)


def _refuse(device: torch.device) -> None:
    """Compiled code comes here without having asked."""
    reason = refusal(device)
    if reason is not None:
        raise UnsupportedError(f"kernels of Triton: {reason}; use the executor 'sparse' or 'capacity'")
