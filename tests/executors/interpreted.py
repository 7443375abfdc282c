"""Run by test_triton.py in a process with TRITON_INTERPRET=1: the kernels against `masked`, and what is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.testing import assert_close

import dyt
from dyt.measure import executed_macs
from dyt.testing.cases import masks, shaken, spec
from dyt.testing.laws import equals_masked

# No channel count is a multiple of a tile; 17 tokens are not either.
ARGS = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 1,
    "global_pool": "avg",  # so that every token matters
    "num_heads": 2,
    "num_classes": 5,
    "mlp_ratio": 1.7,
}


def model_of(device: str, dtype: torch.dtype, **args: object) -> dyt.DynamicModel:
    torch.manual_seed(0)
    backbone = VisionTransformer(**(ARGS | args)).eval()
    for name, parameter in backbone.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.data += torch.randn_like(parameter) * 0.3
    return shaken(dyt.build(spec(), backbone=backbone)).to(device, dtype)


def agreement(device: str, dtype: torch.dtype) -> None:
    """Equal to `masked` whatever is active, with and without layer scale, and with an eps that is seen."""
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.set_float32_matmul_precision("highest")
    cases = [({}, True), ({"init_values": 0.5}, True), ({"norm_layer": partial(torch.nn.LayerNorm, eps=0.5)}, False)]
    for args, every in cases:
        model = model_of(device, dtype, **args)
        for kind in ("ragged", "none", "one", "all") if every else ("ragged",):
            given = [mask.to(device) for mask in masks(model, x, [kind], 3)]
            equals_masked(model, x, given, ["triton"], partial(assert_close, atol=tolerance, rtol=tolerance))


def counting() -> None:
    """What its kernels multiply is counted, though torch's dispatcher does not see it."""
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = model_of("cpu", torch.float32)
    for kind in ("ragged", "none", "all"):
        with dyt.forced(model, masks(model, x, [kind], 3)), dyt.execution(model, "triton"):
            assert abs(executed_macs(model, x) - int(dyt.count_macs(model, x).sum())) <= len(x), kind


def refusals() -> None:
    x = torch.randn(2, 3, 32, 32)
    model = model_of("cpu", torch.float32)
    with dyt.execution(model, "triton"):
        with pytest.raises(dyt.UnsupportedError, match="it has no gradients"):
            model.requires_grad_()(x)
        with (
            torch.no_grad(),
            torch.autocast("cpu"),
            pytest.raises(dyt.UnsupportedError, match="autocast"),
        ):
            model(x)
    for changed in ("act", "fc1"):
        model = model_of("cpu", torch.float32)
        setattr(
            model.backbone.blocks[0].mlp, changed, torch.nn.Sequential(getattr(model.backbone.blocks[0].mlp, changed))
        )
        with (
            torch.no_grad(),
            dyt.execution(model, "triton"),
            pytest.raises(dyt.UnsupportedError, match="is not LayerNorm"),
        ):
            model(x)


if __name__ == "__main__":
    # Not bfloat16: the interpreter keeps it as 16-bit integers, and its matrix product multiplies those.
    for dtype in (torch.float32, torch.float16):
        agreement("cpu", dtype)
    counting()
    refusals()
    print("agree")
