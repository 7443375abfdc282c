"""Run by test_triton.py in a process with TRITON_INTERPRET=1: the kernels against `masked`, and what is refused."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.testing import assert_close

import dyt
from dyt.core.execution import TokenCapacity
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


def optimised(device: str, dtype: torch.dtype) -> None:
    """`dyt.optimize(kernels="triton")` equals the model, whatever is active, with any capacity or none."""
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    scale = {} if dtype == torch.float32 else {"init_values": 0.5}
    model = model_of(device, dtype, depth=2, global_pool="token", **scale)
    fast = dyt.optimize(model, kernels="triton")
    for share, kinds in ((None, ("ragged", "none", "all")), (0.4, ("ragged", "none")), (1.0, ("ragged",))):
        for site in fast.sites:
            site.capacity = None if share is None else TokenCapacity(share)
        for kind in kinds:
            given = [mask.to(device) for mask in masks(model, x, [kind], 3)]
            with torch.no_grad(), dyt.forced(model, given), dyt.forced(fast, given):
                assert_close(fast(x), model(x), atol=tolerance, rtol=tolerance)
    with torch.no_grad():
        assert_close(fast(x), model(x), atol=tolerance, rtol=tolerance)


def products() -> None:
    """Rows behind the count hold anything and are written nowhere; descriptors give what pointers give."""
    from dyt.executors.triton import launch

    generator = torch.Generator().manual_seed(0)
    tokens, channels, width = 40, 16, 24
    x, weight, bias = (
        torch.randn(*shape, generator=generator) for shape in ((tokens, channels), (width, channels), (width,))
    )
    for active in (torch.rand(tokens, generator=generator) < 0.5, torch.zeros(tokens) > 0, torch.zeros(tokens) == 0):
        index, count = torch.full((tokens,), -1, dtype=torch.int32), torch.zeros((), dtype=torch.int32)
        launch.compact[(3,)](active.view(torch.uint8), index, count, tokens, BLOCK=16)
        rows = int(count)
        assert index[:rows].tolist() == active.nonzero().flatten().tolist()
        packed = torch.full((tokens, channels), torch.nan)
        packed[:rows] = x[active]
        for described in (False, True):
            out = torch.full((tokens, width), 7.0)
            launch.product(packed, weight, bias, None, index, count, out, gelu=True, scatter=False, described=described)
            assert_close(out[:rows], torch.nn.functional.gelu(x[active] @ weight.T + bias), atol=1e-5, rtol=1e-5)
            assert (out[rows:] == 7).all()
            added = torch.ones(tokens, width)
            launch.product(
                packed, weight, bias, None, index, count, added, gelu=False, scatter=True, first=4, described=described
            )
            expected = torch.ones(tokens, width)
            late = index[4:rows].long()
            expected[late] += x[late] @ weight.T + bias
            assert_close(added, expected, atol=1e-5, rtol=1e-5)


def branches() -> None:
    """The branch by each set of joined kernels: the same numbers, however many tokens torch's products are given."""
    from dyt.executors.triton import launch, tuning

    usual, tokens, channels, width = tuning.JOINED, 21, 24, 40
    generator = torch.Generator().manual_seed(0)
    shapes = (width, channels), (width,), (channels, width), (channels,), (channels,), (channels,), (channels,)
    made = [torch.randn(*shape, generator=generator) / shape[-1] ** 0.5 for shape in shapes]
    x, start = (torch.randn(tokens, channels, generator=generator) for _ in range(2))
    few, some = torch.arange(tokens) == 20, torch.rand(tokens, generator=generator) < 0.5
    # The interpreter's matrix product is wrong in bfloat16: there all rows are torch's.
    kinds = (torch.float32, 1e-4, 5), (torch.float16, 1e-2, 5), (torch.bfloat16, 8e-2, tokens)
    for dtype, tolerance, rows in kinds:
        w1, b1, w2, b2, gamma, beta, scale = (each.to(dtype) for each in made)
        sets = [{"pack"}, set()] if rows == tokens else [{"pack", "tail"}, set()]
        for active, joined in itertools.product((few, some, few & ~few, few | ~few), sets):
            bare = rows == 5 and bool(active.all())
            tuning.JOINED = frozenset(joined)
            out = start.to(dtype, copy=True)
            launch.mlp_onto(
                *(x.to(dtype), active, (gamma, beta, 1e-5), (w1, None if bare else b1), (w2, None if bare else b2)),
                *(None if bare else scale, out, rows),
            )
            tuning.JOINED = usual
            y = torch.nn.functional.layer_norm(x.to(dtype).float(), (channels,), gamma.float(), beta.float())
            h = torch.nn.functional.gelu(y @ w1.float().T + (0 if bare else b1.float()))
            added = (h @ w2.float().T + (0 if bare else b2.float())) * (1 if bare else scale.float())
            expected = start.to(dtype).float() + added * active[:, None]
            case = f"{dtype}, {int(active.sum())} active, {rows} rows, {sorted(joined)}"
            assert_close(out.float(), expected, atol=tolerance, rtol=tolerance, msg=case)
            assert torch.equal(out[~active], start.to(dtype)[~active])


def adapters() -> None:
    """The adapter's kernel, with as many hidden units as no tile has, with a router and without."""
    from dyt.executors.triton import tuning
    from dyt.executors.triton.operators import adapted, joined

    generator = torch.Generator().manual_seed(0)
    shapes = (21, 24), (10, 24), (10,), (24, 10), (24,), (1, 24), (1,)
    x, down, down_bias, up, up_bias, router, router_bias = (torch.randn(*s, generator=generator) for s in shapes)
    for name, act in (("relu", torch.relu), ("gelu", torch.nn.functional.gelu)):
        expected = x + act(x @ down.T + down_bias) @ up.T + up_bias
        out, logits = adapted(x, down, down_bias, up, up_bias, router, router_bias, name)
        assert_close(out, expected, atol=1e-4, rtol=1e-4)
        assert_close(logits, (x @ router.T + router_bias)[:, 0], atol=1e-4, rtol=1e-4)
        out, logits = adapted(x, down, down_bias, up, up_bias, None, None, name)
        assert_close(out, expected, atol=1e-4, rtol=1e-4)
        assert logits.shape == (0,)
    other = torch.randn(shapes[0], generator=generator)
    expected = adapted(x + other, down, down_bias, up, up_bias, router, router_bias, "relu")
    usual = tuning.JOINED
    for kept in (usual, frozenset()):
        tuning.JOINED = kept
        for found, wanted in zip(
            joined(x, other, down, down_bias, up, up_bias, router, router_bias, "relu"),
            (x + other, *expected),
            strict=True,
        ):
            assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    tuning.JOINED = usual


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
        optimised("cpu", dtype)
    products()
    branches()
    adapters()
    counting()
    refusals()
    print("agree")
