"""AdaptFormer's checkpoints: equal to a readable forward of its released code, and refused by name."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import dyt

NAME = "vit_tiny_patch16_224"
WIDTH, HEADS, DEPTH, CLASSES, BOTTLENECK = 32, 2, 2, 5, 6
ARGS = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
close = torch.testing.assert_close


def checkpoint(pooled: bool = False, normed: bool = True, learned: bool = False) -> dict[str, Tensor]:
    """Random tensors under the names and shapes of the released code's `state_dict()`."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) * 0.3

    def linear(name: str, inside: int, outside: int) -> dict[str, Tensor]:
        return {f"{name}.weight": random(outside, inside), f"{name}.bias": random(outside)}

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + random(WIDTH), f"{name}.bias": random(WIDTH)}

    state = {"cls_token": random(1, 1, WIDTH), "pos_embed": random(1, 17, WIDTH)}
    state |= {"patch_embed.proj.weight": random(WIDTH, 3, 8, 8), "patch_embed.proj.bias": random(WIDTH)}
    for block in (f"blocks.{i}" for i in range(DEPTH)):
        state |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        for part in ("q_proj", "v_proj", "k_proj", "proj"):
            state |= linear(f"{block}.attn.{part}", WIDTH, WIDTH)
        state |= linear(f"{block}.fc1", WIDTH, 4 * WIDTH) | linear(f"{block}.fc2", 4 * WIDTH, WIDTH)
        state |= linear(f"{block}.adaptmlp.down_proj", WIDTH, BOTTLENECK)
        state |= linear(f"{block}.adaptmlp.up_proj", BOTTLENECK, WIDTH)
        if learned:
            state[f"{block}.adaptmlp.scale"] = 0.5 + random(1)
    state |= norm("fc_norm" if pooled else "norm")
    if not normed:
        return state | linear("head", WIDTH, CLASSES)
    state |= {"head.0.running_mean": random(WIDTH), "head.0.running_var": 0.1 + random(WIDTH).abs()}
    return state | {"head.0.num_batches_tracked": torch.tensor(7)} | linear("head.1", WIDTH, CLASSES)


def reference(state: dict[str, Tensor], images: Tensor, scale: float = 0.1) -> Tensor:
    """What the released code computes at inference: images (B, 3, 32, 32) -> logits (B, classes)."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    def attention(x: Tensor, name: str) -> Tensor:
        q, k, v = (linear(x, f"{name}.{p}_proj").unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in "qkv")
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return linear((weights @ v).transpose(1, 2).flatten(-2), f"{name}.proj")

    patches = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=8)
    x = torch.cat([state["cls_token"].expand(len(images), -1, -1), patches.flatten(2).mT], 1) + state["pos_embed"]
    for block in (f"blocks.{i}" for i in range(DEPTH)):
        x = x + attention(norm(x, f"{block}.norm1"), f"{block}.attn")
        factor = state.get(f"{block}.adaptmlp.scale", scale)
        adapted = linear(linear(x, f"{block}.adaptmlp.down_proj").relu(), f"{block}.adaptmlp.up_proj") * factor
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.fc1")), f"{block}.fc2") + adapted
    pooled = norm(x[:, 1:].mean(1), "fc_norm") if "fc_norm.weight" in state else norm(x, "norm")[:, 0]
    if "head.weight" in state:
        return linear(pooled, "head")
    mean, variance = state["head.0.running_mean"], state["head.0.running_var"]
    return linear(F.batch_norm(pooled, mean, variance, eps=1e-6), "head.1")


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "how", [{}, {"pooled": True}, {"normed": False}, {"learned": True}], ids=["released", "pooled", "bare", "learned"]
)
def test_it_computes_what_the_released_code_does(how: dict[str, bool]) -> None:
    state, x = checkpoint(**how), images()
    model = dyt.from_adaptformer(state, NAME, **ARGS)
    assert not model.training
    static = dyt.preset("adaptformer")
    assert (model.spec.dispatcher, model.spec.objective) == (static.dispatcher, static.objective)
    assert (model.spec.adapter.type, model.spec.adapter.dim, model.spec.adapter.placement) == (
        *("bottleneck", BOTTLENECK),
        "parallel",
    )
    with torch.no_grad():
        close(model(x), reference(state, x), atol=1e-5, rtol=1e-5)
        silent = {k: v * 0 if "up_proj" in k else v for k, v in state.items()}
        assert not torch.allclose(model(x), reference(silent, x), atol=1e-2)  # the adapters count
        with dyt.record(model) as routes:
            model(x)
    assert all(bool(route.active.all()) for route in routes)
    assert len(routes) == DEPTH


def test_another_scale() -> None:
    state, x = checkpoint(), images()
    model = dyt.from_adaptformer(state, NAME, scale=0.7, **ARGS)
    with torch.no_grad():
        close(model(x), reference(state, x, 0.7), atol=1e-5, rtol=1e-5)
    with pytest.raises(dyt.SpecError, match=r"adapter\.scale"):
        dyt.from_adaptformer(state, NAME, scale="0.1", **ARGS)  # type: ignore[arg-type]


def test_from_the_files_of_a_run(tmp_path: Path) -> None:
    """As `util/misc.py` of the released code saves them, with the run's arguments; and as safetensors."""
    state = checkpoint()
    saved = {
        "model": state,
        "optimizer": {"state": {}},
        "epoch": 3,
        "args": Namespace(lr=0.1, model="vit_base_patch16"),
    }
    torch.save(saved, tmp_path / "checkpoint-3.pth")
    save_file(state, tmp_path / "a.safetensors")
    made = [dyt.from_adaptformer(tmp_path / name, NAME, **ARGS) for name in ("checkpoint-3.pth", "a.safetensors")]
    for model in made:
        dyt.save(model, tmp_path / "b.safetensors", whole=True)
        again = dyt.load(tmp_path / "b.safetensors")
        with torch.no_grad():
            assert torch.equal(again(images()), made[0](images()))


class Trap:
    """What is not torch's and no `Namespace` in a file."""


def without(*names: str) -> dict[str, Any]:
    return {key: value for key, value in checkpoint().items() if key not in names}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no adapter": (
        {k: v for k, v in checkpoint().items() if "adaptmlp" not in k},
        "not a checkpoint of AdaptFormer's released code: no tensor 'blocks.0.adaptmlp.down_proj.weight'",
    ),
    "no adapter in one block": (
        without("blocks.1.adaptmlp.up_proj.bias"),
        "1 missing (sites.blocks.1.mlp.adapter.up.bias)",
    ),
    "no k": (without("blocks.1.attn.k_proj.weight"), "_proj.weight' and no 'blocks.1.attn.k_proj.weight'"),
    "a wrong v": (
        without() | {"blocks.0.attn.v_proj.bias": torch.zeros(3)},
        "'blocks.0.attn.v_proj.bias' has shape (3,), and 'blocks.0.attn.q_proj.bias' has (32,)",
    ),
    "no fc2": (without("blocks.0.fc2.weight"), "1 missing (backbone.blocks.0.mlp.fc2.weight)"),
    "a wrong fc1": (without() | {"blocks.0.fc1.bias": torch.zeros(3)}, "1 of another shape (backbone.blocks.0.mlp.fc1"),
    "a stranger": (without() | {"blocks.0.extra": torch.zeros(1)}, "1 unknown (backbone.blocks.0.extra)"),
    "no head": (without("head.1.weight"), "no tensor 'head.weight'"),
    "no statistics": (without("head.0.running_var"), "no tensor 'head.0.running_var'"),
    "wrong statistics": (
        without() | {"head.0.running_mean": torch.zeros(3)},
        "'head.0.running_mean' has shape (3,), not (32,) as of its head.1.weight",
    ),
    "weights in the norm": (without() | {"head.0.weight": torch.zeros(WIDTH)}, "1 unknown (backbone.head.0.weight)"),
    "a number": (without() | {"blocks.0.adaptmlp.down_proj.weight": torch.zeros(())}, "has shape (), and is no matrix"),
    "a norm of its own": (
        without() | {"blocks.0.adaptmlp.adapter_layer_norm_before.weight": torch.ones(WIDTH)},
        "a norm in its adapters (ffn_adapter_layernorm_option",
    ),
    "prompts": (without() | {"embeddings.0": torch.zeros(1, 1, WIDTH)}, "prompts beside its adapters (--vpt)"),
    "a checkpoint of DyT": (
        without() | {"blocks.0.mlp_token_select.mlp_head.weight": torch.zeros(1, WIDTH)},
        "read it with dyt.from_official (blocks.0.mlp_token_select",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_fit_is_refused_by_name(name: str) -> None:
    state, words = CASES[name]
    with pytest.raises(dyt.CheckpointError) as caught:
        dyt.from_adaptformer(state, NAME, **ARGS)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_each_code_s_checkpoints_name_the_other_s_reader(tmp_path: Path) -> None:
    with pytest.raises(dyt.CheckpointError, match=r"read it with dyt\.from_adaptformer"):
        dyt.from_official(checkpoint(), NAME, **ARGS)
    with pytest.raises(dyt.CheckpointError, match="no file"):
        dyt.from_adaptformer(tmp_path / "absent.pth")
    torch.save({"model": checkpoint(), "args": Namespace(trap=Trap())}, tmp_path / "a.pth")
    with pytest.raises(dyt.CheckpointError, match="is not a readable weights file"):
        dyt.from_adaptformer(tmp_path / "a.pth", NAME, **ARGS)
