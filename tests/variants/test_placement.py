"""Where the adapter stands and what it reads, in every variant, against timm's own modules put together by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dyt
from laws.models import CLASSES, masks, tiny

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
ARGS = {"init_values": 0.7, "qk_norm": True}


def attention(block: Any, x: Tensor) -> Tensor:
    return block.ls1(block.attn(block.norm1(x)))


def mlp(block: Any, x: Tensor) -> Tensor:
    return block.ls2(block.mlp(block.norm2(x)))


def layer(block: Any, x: Tensor) -> Tensor:
    y = x + attention(block, x)
    return y + mlp(block, y) - x


BRANCHES = {"attn": attention, "mlp": mlp, "layer": layer}
DISPATCHED = {"attn": ("attn",), "mlp": ("mlp",), "attn_mlp": ("attn", "mlp"), "layer": ("layer",)}


def step(block: Any, branch: str, x: Tensor, mask: Tensor | None, placement: str, reads: str) -> Tensor:
    """The tokens behind one branch: X + M Branch(X), each image's active tokens alone, and what the adapter adds."""
    if mask is None:
        return x + BRANCHES[branch](block, x)
    after = x.clone()
    for i, on in enumerate(mask):
        after[i, on] += BRANCHES[branch](block, x[i : i + 1, on])[0]
    site = block.sites[branch]
    seen = after if placement == "sequential" else x
    if reads == "normalised":
        seen = (block.norm2 if branch == "mlp" else block.norm1)(seen)
    hidden = nn.functional.relu(seen @ site.adapter.down.weight.T + site.adapter.down.bias)
    return after + site.adapter.scale * (hidden @ site.adapter.up.weight.T + site.adapter.up.bias)


@pytest.mark.parametrize("variant", sorted(DISPATCHED))
@pytest.mark.parametrize("placement", ["parallel", "sequential"])
@pytest.mark.parametrize("reads", ["block", "normalised"])
def test_equals_the_reference(variant: str, placement: str, reads: str) -> None:
    adapter = {"type": "bottleneck", "dim": 8, "scale": 1.0, "placement": placement, "input": reads}
    model = tiny(ARGS, variant=variant, adapter=adapter)
    given = masks(model, X, ["random", "ragged"], 3)
    of = {site.name: mask for site, mask in zip(model.sites, given, strict=True)}
    plain = model.backbone
    with torch.no_grad():
        tokens = plain.norm_pre(plain._pos_embed(plain.patch_embed(X)))
        for i, block in enumerate(plain.blocks):
            for branch in ("layer",) if variant == "layer" else ("attn", "mlp"):
                tokens = step(block, branch, tokens, of.get(f"blocks.{i}.{branch}"), placement, reads)
        expected = plain.forward_head(plain.norm(tokens))
        for execution in ("masked", "sparse"):
            with dyt.forced(model, given), dyt.execution(model, execution):
                torch.testing.assert_close(model(X), expected, atol=2e-5, rtol=2e-5)


def test_the_placements_differ() -> None:
    """Else the reference above would prove little."""
    found = []
    for placement in ("parallel", "sequential"):
        for reads in ("block", "normalised"):
            torch.manual_seed(0)
            model = tiny(adapter={"type": "bottleneck", "scale": 1.0, "placement": placement, "input": reads})
            with torch.no_grad(), dyt.execution(model, "complete"):
                found.append(model(X))
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize("variant", sorted(DISPATCHED))
def test_dynamic_full(variant: str) -> None:
    """The paper's dynamic_full: a dispatcher, no adapter, and all backbone weights trained."""
    model = tiny(variant=variant, adapter="none", trainable="full", objective={"rate": 0.3717}).train()
    assert not [name for name, _ in model.named_parameters() if ".adapter." in name]
    assert all(parameter.requires_grad for parameter in model.parameters())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loss, _ = dyt.TuningStep(model)(X, torch.arange(2) % CLASSES)
    loss.backward()
    optimizer.step()
    unchanged = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert unchanged == set()
