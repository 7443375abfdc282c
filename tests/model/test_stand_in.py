"""`stand_in`: what is added in a branch's place at inactive tokens, and there alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

import dyt
from dyt.core import context
from dyt.executors import Masked, SparseBackward
from dyt.testing.cases import tiny

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LINEAR: dict[str, Any] = {"type": "low_rank", "dim": 4}


def model(**changes: Any) -> dyt.DynamicModel:
    """Always the same one, whose adapters and stand-ins add something."""
    torch.manual_seed(0)
    adapter = {"type": "bottleneck", "dim": 8, "dropout": 0.0}
    made = tiny(**{"stand_in": LINEAR, "adapter": adapter, "dispatcher": {"type": "learned", "noise": 0.0}} | changes)
    for site in made.sites:
        for part in (site.adapter, site.stand_in):
            for name, parameter in part.named_parameters():
                torch.nn.init.normal_(parameter, std=0.3 if name.startswith("up") else 0.1)
    return made.eval()


def masks(made: dyt.DynamicModel) -> list[torch.Tensor]:
    with dyt.record(made) as routes:
        made(IMAGES)
    drawn = torch.Generator().manual_seed(3)
    return [
        (torch.rand(route.active.shape, generator=drawn) < 0.5).index_fill_(1, torch.arange(route.prefix), True)
        for route in routes
    ]


def test_it_is_added_where_the_branch_is_not() -> None:
    """X + Attn, then X' + M MLP(X') + (1 - M) StandIn(X') + Adapter(X'), block by block."""
    made = model()
    forced = masks(made)
    with torch.no_grad(), dyt.forced(made, forced):
        found = made(IMAGES)
    with torch.no_grad():
        x = made.backbone._pos_embed(made.backbone.patch_embed(IMAGES))
        for block, mask in zip(made.dynamic_blocks, forced, strict=True):
            x = x + block.attn(block.norm1(x))
            m, site = mask[..., None].float(), block.site("mlp")
            x = x + m * block.mlp(block.norm2(x)) + (1 - m) * site.stand_in(x) + site.adapter(x)
        wanted = made.backbone.forward_head(made.backbone.norm(x))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["mlp", "attn", "attn_mlp", "layer"])
@pytest.mark.parametrize("executor", ["sparse", "capacity", "sparse_backward"])
def test_executors_agree(executor: str, variant: str) -> None:
    made = model(variant={"type": variant})
    with torch.no_grad(), dyt.forced(made, masks(made)):
        with dyt.execution(made, "masked"):
            wanted = made(IMAGES)
        with dyt.execution(made, executor):
            torch.testing.assert_close(made(IMAGES), wanted, rtol=1e-4, atol=1e-5)


def test_it_stands_in_for_nothing_where_every_token_is_active() -> None:
    made = model()
    with torch.no_grad(), dyt.execution(made, "complete"):
        wanted = made(IMAGES)
        for site in made.sites:
            torch.nn.init.constant_(site.stand_in.up.bias, 1e6)
        assert torch.equal(made(IMAGES), wanted)
    with torch.no_grad():
        assert not torch.equal(made(IMAGES), wanted)


@pytest.mark.parametrize("told", [1.0, None])
def test_gradients_of_both_executors_agree_and_reach_it(told: float | None) -> None:
    made = model().train()
    found = []
    for executor in (Masked(), SparseBackward()):
        made.zero_grad()
        with context.changed(made.key, told=told, executor=executor):
            made(IMAGES).square().sum().backward()
        found.append({name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None})
    assert any(".stand_in." in name for name in found[0])
    for name, wanted in found[0].items():
        torch.testing.assert_close(found[1][name], wanted, rtol=1e-4, atol=1e-6)


def test_an_optimised_model_and_a_saved_one_have_it(tmp_path: Path) -> None:
    made = model()
    with torch.no_grad():
        wanted = made(IMAGES)
        torch.testing.assert_close(dyt.optimize(made)(IMAGES), wanted, rtol=1e-4, atol=1e-5)
        dyt.save(made, tmp_path / "model.safetensors", whole=True)
        loaded = dyt.load(tmp_path / "model.safetensors")
        assert torch.equal(loaded(IMAGES), wanted)
    assert loaded.spec.stand_in is not None
    assert "stand-ins:" in loaded.summary()


def test_one_that_reads_normalised_tokens_is_left_alone_and_still_right() -> None:
    made = model(stand_in={**LINEAR, "input": "normalised"})
    optimised = dyt.optimize(made, last_block=False)
    assert "stand-in reads normalised tokens" in str(optimised.report)
    with torch.no_grad():
        torch.testing.assert_close(optimised(IMAGES), made(IMAGES), rtol=1e-4, atol=1e-5)


def test_a_sequential_one_is_refused() -> None:
    with pytest.raises(dyt.SpecError, match="stand_in reads what its branch reads"):
        model(stand_in={**LINEAR, "placement": "sequential"})


def test_one_that_would_never_be_used_is_refused() -> None:
    with pytest.raises(dyt.UnsupportedError, match="'always' skips no token"):
        model(dispatcher={"type": "always"})
