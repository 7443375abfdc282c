"""Attention in windows is each window's own attention, with every weight and name of the backbone as it was."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import dyt
from compilation import WHOLE
from dyt.assembly.backbone import create
from dyt.assembly.window_attention import Tiling, WindowHooks, global_blocks, windows_of
from dyt.config.spec import BackboneSpec
from dyt.errors import DyTError, SpecError, UnsupportedError
from dyt.io.export import program
from dyt.measure.costs import costs

SMALL = {"img_size": 48, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}


def backbone(**fields: Any) -> dict[str, Any]:
    args = {**SMALL, **fields.pop("args", {})}
    windows = {"window_size": 4, "global_attn_indexes": [3]}
    return {"name": "vit_tiny_patch16_224", "weights": "none", "args": args, **windows, **fields}


def plain_backbone() -> nn.Module:
    return create(BackboneSpec(**backbone(window_size=None, global_attn_indexes=None)), 3)[0]


def spec(**fields: Any) -> dict[str, Any]:
    return {"backbone": backbone(), "head": {"num_classes": 3}, "adapter": {"type": "bottleneck", "dim": 2}, **fields}


def built(seed: int = 0, **fields: Any) -> dyt.DynamicModel:
    torch.manual_seed(seed)
    return dyt.build(spec(**fields))


class FixedGrid:
    def __init__(self, size: tuple[int, int]) -> None:
        self.shape = size

    def size(self) -> tuple[int, int]:
        return self.shape


def one_by_one(attn: Callable[[Tensor], Tensor], x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """The readable reference: the patches of a window with all prefix tokens through the plain module, in turns."""
    h, w = grid
    prefix = x.shape[1] - h * w
    counts = [-(-side // size) for side in grid]
    rows, columns = (torch.arange(side).split(-(-side // n)) for side, n in zip(grid, counts, strict=True))
    out, prefixes = torch.zeros_like(x), []
    for row in rows:
        for column in columns:
            inside = prefix + (row[:, None] * w + column).flatten()
            both = torch.cat([torch.arange(prefix), inside])
            found = attn(x[:, both])
            out[:, inside] = found[:, prefix:]
            prefixes.append(found[:, :prefix])
    out[:, :prefix] = torch.stack(prefixes).mean(0)
    return out


@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.integers(1, 10),
    prefix=st.integers(0, 2),
    batch=st.integers(1, 3),
    fused=st.booleans(),
)
def test_each_window_is_attended_by_itself(
    grid: tuple[int, int], size: int, prefix: int, batch: int, fused: bool
) -> None:
    torch.manual_seed(0)
    attn = Attention(8, num_heads=2, qkv_bias=True).eval()
    attn.fused_attn = fused
    x = torch.randn(batch, prefix + grid[0] * grid[1], 8)
    tiling = Tiling.of(grid, size)
    assert max(tiling.window) <= size
    expected = one_by_one(attn, x, grid, size)
    whole = attn(x)
    WindowHooks(attn, size, FixedGrid(grid))  # type: ignore[arg-type]
    found = attn(x)
    assert found.shape == x.shape
    torch.testing.assert_close(found, expected)
    if size >= max(grid):
        torch.testing.assert_close(found, whole)


@given(grid=st.tuples(st.integers(1, 9), st.integers(1, 9)), size=st.integers(1, 10))
def test_joining_undoes_cutting(grid: tuple[int, int], size: int) -> None:
    tiling = Tiling.of(grid, size)
    x = torch.randn(2, grid[0] * grid[1], 3)
    cut = tiling.cut(x)
    assert cut.shape == (2, tiling.windows, tiling.window[0] * tiling.window[1], 3)
    assert torch.equal(tiling.join(cut), x)


def test_names_and_weights_are_the_backbones() -> None:
    torch.manual_seed(0)
    windowed, _ = create(BackboneSpec(**backbone()), 3)
    torch.manual_seed(0)
    plain = plain_backbone()
    assert all(torch.equal(a, b) for a, b in zip(windowed.parameters(), plain.parameters(), strict=True))
    assert list(windowed.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, 3, 48, 48)
    assert not torch.allclose(windowed(images), plain(images), atol=1e-3)


@pytest.mark.parametrize(("depth", "expected"), [(12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (2, (0, 1)), (1, (0,))])
def test_the_last_of_each_quarter_is_global(depth: int, expected: tuple[int, ...]) -> None:
    assert global_blocks(BackboneSpec(window_size=4), depth) == expected


def test_the_blocks_that_are_named_are_global() -> None:
    model = built(backbone=backbone(global_attn_indexes=[1, 3]))
    assert [windows_of(block.attn) is None for block in model.backbone.blocks] == [False, True, False, True]


def test_every_execution_gives_the_same() -> None:
    model = built(objective={"rate": 0.5})
    images = torch.randn(3, 3, 48, 48)
    with dyt.record(model) as routes:
        expected = model(images)
    assert 0 < sum(int(route.active.sum()) for route in routes) < sum(route.active.numel() for route in routes)
    with dyt.execution(model, "masked"):
        torch.testing.assert_close(model(images), expected)
    torch.testing.assert_close(copy.deepcopy(model)(images), expected)
    torch.testing.assert_close(dyt.optimize(model)(images), expected)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=WHOLE)(images), expected)


def test_what_optimize_does_to_a_windowed_block() -> None:
    report = dyt.optimize(built()).report
    assert all(any("windows" in reason for reason in block.left) for block in report.blocks[:3])
    assert all(block.rewrites for block in report.blocks)


def test_everything_is_trained_and_saved(tmp_path: Path) -> None:
    given_backbone = plain_backbone()
    plain = copy.deepcopy(given_backbone)
    model = dyt.build(spec(), backbone=given_backbone).train()
    images, labels = torch.randn(4, 3, 48, 48), torch.tensor([0, 1, 2, 0])
    dyt.TuningStep(model)(images, labels)[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1).step()
    dyt.save(model, tmp_path / "model.safetensors")
    loaded = dyt.load(tmp_path / "model.safetensors", backbone=plain)
    torch.testing.assert_close(loaded(images), model.eval()(images))


def test_lora_and_prompts_go_with_windows() -> None:
    for tuner in ({"type": "lora", "rank": 2}, {"type": "vpt", "tokens": 3}):
        model = built(tuner=tuner)
        model(torch.randn(2, 3, 48, 48)).sum().backward()
        assert all(p.grad is not None for name, p in model.named_parameters() if "tuner" in name)


def test_images_of_any_size() -> None:
    model = built(backbone=backbone(args={"dynamic_img_size": True}))
    for size in ((48, 48), (40, 96), (16, 24)):
        images = torch.randn(2, 3, *size)
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone)
    twin, large = copy.deepcopy(model), torch.randn(1, 3, 80, 64)
    found = twin(large)  # a copy has a grid of its own
    torch.testing.assert_close(model(images), alone)
    torch.testing.assert_close(found, model(large))


def test_maps_of_layers_and_a_free_batch_size() -> None:
    model = built(backbone=backbone(args={"dynamic_img_size": True}), head={"type": "pixel", "num_classes": 3})
    images = torch.randn(3, 3, 40, 56)
    expected = model(images)
    assert expected.shape == (3, 3, 40, 56)
    exported = program(model, images[:1]).module()
    torch.testing.assert_close(exported(images), expected)


def test_windows_cost_less() -> None:
    large = {"args": {**SMALL, "img_size": 128}}
    windows, whole = (
        costs(dyt.DyTSpec(**spec(backbone=backbone(global_attn_indexes=indexes, **large))))
        for indexes in ([3], [0, 1, 2, 3])
    )
    # two products of N x N x C in each block of four; here one block keeps N = 257, and three have 16 windows of 17
    saved = 2 * 3 * 16 * (257**2 - 16 * 17**2)
    class_tokens = 3 * 15 * 4 * 16**2  # its four projections, once for each window more
    assert whole.dense - windows.dense == saved - class_tokens
    assert windows.complete - windows.dense == whole.complete - whole.dense


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"variant": {"type": "attn"}}, "variant 'attn' attends among active ones; use mlp"),
        ({"dispatcher": {"type": "attention"}}, "dispatcher 'attention' ranks tokens"),
        ({"reducer": {"type": "tome", "r": 2}}, "reducer 'tome' leaves fewer tokens"),
        ({"backbone": backbone(global_attn_indexes=[4])}, "no block 4; it has blocks 0 to 3"),
        ({"backbone": backbone(args={"patch_drop_rate": 0.5})}, "patch_drop_rate"),
        (
            {"backbone": {"name": "swin_tiny_patch4_window7_224", "weights": "none", "window_size": 4}},
            "backbone.window_size is not available for SwinTransformer: it is for timm's plain ViT, .* set",
        ),
    ],
)
def test_what_windows_do_not_go_with_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        built(**fields)


def test_a_refused_backbone_is_unchanged() -> None:
    plain = plain_backbone()
    for fields in ({"variant": {"type": "layer"}}, {"backbone": backbone(global_attn_indexes=[9])}):
        with pytest.raises(UnsupportedError):
            dyt.build(spec(**fields), backbone=plain)
        assert type(plain) is VisionTransformer
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in plain.modules())


def test_other_windows_are_not_put_over_those_that_are_there() -> None:
    windowed, _ = create(BackboneSpec(**backbone()), 3)
    with pytest.raises(UnsupportedError, match=r"other windows already, of 4 at blocks\.0"):
        dyt.build(spec(backbone=backbone(window_size=3)), backbone=windowed)
    assert dyt.build(spec(), backbone=windowed)(torch.randn(1, 3, 48, 48)).shape == (1, 3)


def test_global_blocks_without_windows_are_a_mistake() -> None:
    with pytest.raises(SpecError, match="set window_size"):
        dyt.build(spec(backbone=backbone(window_size=None, global_attn_indexes=[1])))


def test_a_mask_is_refused() -> None:
    model = built()
    with pytest.raises(DyTError, match=r"takes no attention mask; set backbone\.window_size: null"):
        model(torch.randn(1, 3, 48, 48), attn_mask=torch.ones(1, 1, 37, 37, dtype=torch.bool))


def test_tokens_that_are_missing_are_told() -> None:
    attn = Attention(8, num_heads=2)
    WindowHooks(attn, 2, FixedGrid((4, 4)))  # type: ignore[arg-type]
    with pytest.raises(DyTError, match="needs all 4 x 4 patch tokens; given 15"):
        attn(torch.randn(1, 15, 8))
