"""Tiny backbones of every family, from plain data: one table that `test_zoo.py` puts through the laws.

To add a family: give it entries here. What a backbone needs beyond the default is in the fields of `Animal`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import timm
import torch
from packaging.version import Version
from timm.models.vision_transformer import (
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ResPostBlock,
    VisionTransformer,
)
from torch import Tensor, nn

VARIANTS = ("attn", "attn_mlp", "layer", "mlp")
CLASSES = 5
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
BATCH = 3


class Nothing(nn.Module):
    """Zero in the place of a drop path: takes a branch out of a block."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def silenced(*children: str) -> Callable[[nn.Module], None]:
    """Puts `Nothing` in the place of these children of a block."""

    def change(block: nn.Module) -> None:
        for child in children:
            parent, _, name = child.rpartition(".")
            setattr(block.get_submodule(parent), name, Nothing())

    return change


def zeroed(*parameters: str) -> Callable[[nn.Module], None]:
    """Sets these parameters of a block to zero."""

    def change(block: nn.Module) -> None:
        with torch.no_grad():
            for parameter in parameters:
                block.get_parameter(parameter).zero_()

    return change


def alone(block: Any, index: Tensor, image: int, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the block is to be called with when it is given the tokens `index` (K,) of one image only.

    Default: nothing depends on positions. The block is a copy, and may be changed.
    """
    return kwargs


def images(model: nn.Module) -> Any:
    """What the model is called with: (B, 3, 32, 32) by default."""
    return torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(3))


NO_MLP, NO_ATTENTION = silenced("drop_path2"), silenced("drop_path1")


@dataclass(frozen=True)
class Animal:
    """One tiny backbone and what is expected of it.

    Attributes:
        family: the registered name of the family that should know it.
        make: makes the plain backbone, with more arguments of its class.
        prefix: its number of prefix tokens, as its blocks see them.
        variants: those that can be built; `refused` has a word of the reason for each of the others.
        attention: None when the class token's attention can be had, or a word of the reason why not.
        images: from the backbone, what it is called with.
        alone: how a block is called with some tokens of one image alone.
        no_mlp, no_attn: takes the branch out of a copy of the block.
        parallel: whether the MLP reads the block's input.
    """

    family: str
    make: Callable[..., nn.Module]
    prefix: int
    variants: tuple[str, ...] = VARIANTS
    refused: Mapping[str, str] = field(default_factory=dict)
    attention: str | None = None
    images: Callable[[nn.Module], Any] = images
    alone: Callable[[Any, Tensor, int, dict[str, Any]], dict[str, Any]] = alone
    no_mlp: Callable[[nn.Module], None] = NO_MLP
    no_attn: Callable[[nn.Module], None] = NO_ATTENTION
    parallel: bool = False

    def backbone(self, **args: Any) -> nn.Module:
        """The plain backbone in eval mode, every parameter moved away from its start, always the same."""
        torch.manual_seed(11)
        model = self.make(**args).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        return model

    def part(self, block: nn.Module, without: str) -> Any:
        """A copy of the block without its `attn` or `mlp` branch, or whole."""
        found = copy.deepcopy(block)
        if without:
            {"attn": self.no_attn, "mlp": self.no_mlp}[without](found)
        return found


def needs_timm(version: str, what: str) -> None:
    """Skips the test where timm is older: `what` is timm's own, and is not there or does not run."""
    if Version(timm.__version__) < Version(version):
        pytest.skip(f"{what} needs timm {version} or newer; this is {timm.__version__}")


def model(name: str, since: str | None = None, **args: Any) -> Callable[..., nn.Module]:
    """A timm model by name, made tiny; None takes one of the tiny arguments away.

    `since`: the first timm whose own model has the name and runs so; tests of it are skipped before.
    """
    merged = {key: value for key, value in (TINY | args).items() if value is not None}

    def made(**more: Any) -> nn.Module:
        if since is not None:
            needs_timm(since, name)
        return timm.create_model(name, **merged, **more)

    return made


# How blocks are called with some tokens alone ------------------------------------------------------------------------


def with_rope(block: Any, index: Tensor, image: int, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Rotary embedding (N, D), (H, N, D) or of each image, and an attention mask of each image."""
    found = dict(kwargs)
    rope, mask = kwargs.get("rope"), kwargs.get("attn_mask")
    prefix = getattr(block.attn, "num_prefix_tokens", 0)
    if rope is not None:
        rope = rope[image : image + 1] if rope.ndim == 4 else rope
        found["rope"] = rope[..., index[index >= prefix] - prefix, :]
    if mask is not None:
        found["attn_mask"] = mask[image : image + 1][:, :, index][..., index]
    return found


def with_beit_bias(block: Any, index: Tensor, image: int, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The block's own table and the shared bias, looked up at pairs of positions, given as the shared one."""
    attn, bias = block.attn, torch.zeros(())
    if attn.relative_position_bias_table is not None:
        bias = attn.relative_position_bias_table[attn.relative_position_index[index][:, index]].permute(2, 0, 1)
        attn.relative_position_bias_table = None
    shared = kwargs.get("shared_rel_pos_bias")
    if shared is not None:
        bias = bias + shared[:, index][:, :, index]
    return {"shared_rel_pos_bias": bias[None] if bias.ndim else None}


def with_relpos(block: Any, index: Tensor, image: int, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The bias of the block's module, or the shared one, at pairs of positions."""
    bias = kwargs["shared_rel_pos"] if block.attn.rel_pos is None else block.attn.rel_pos.get_bias()
    block.attn.rel_pos = None
    return {"shared_rel_pos": bias[:, :, index][..., index]}


# NaFlexViT -----------------------------------------------------------------------------------------------------------


def naflex(model: Any) -> dict[str, Tensor]:
    """Three images of 4x4, 2x3 and 1x5 patches, padded to 16."""
    grids = [(4, 4), (2, 3), (1, 5)]
    coord, valid = torch.zeros(3, 16, 2, dtype=torch.long), torch.zeros(3, 16, dtype=torch.bool)
    for i, (height, width) in enumerate(grids):
        cells = torch.cartesian_prod(torch.arange(height), torch.arange(width))
        coord[i, : len(cells)], valid[i, : len(cells)] = cells, True
    patches = torch.randn(3, 16, 8 * 8 * 3, generator=torch.Generator().manual_seed(3)) * valid[..., None]
    return {"patches": patches, "patch_coord": coord, "patch_valid": valid}


NAFLEX = {"img_size": None}

# The table -----------------------------------------------------------------------------------------------------------


def without_fused(start: int, stop: int, bias: bool) -> Callable[[nn.Module], None]:
    """Zeroes columns of a fused output projection, and its bias."""

    def change(block: Any) -> None:
        with torch.no_grad():
            block.out_proj.weight[:, start:stop] = 0
            if bias:
                block.out_proj.bias.zero_()

    return change


def vit(**args: Any) -> Callable[..., nn.Module]:
    """timm's VisionTransformer, for what no model of timm's list has."""
    return lambda **more: VisionTransformer(**(TINY | args), **more)


FUSED = {"no_mlp": without_fused(32, 160, True), "no_attn": without_fused(0, 32, False), "parallel": True}
UNFUSED = {
    "no_mlp": zeroed("mlp_out_proj.weight", "mlp_out_proj.bias"),
    "no_attn": zeroed("attn_out_proj.weight", "attn_out_proj.bias"),
    "parallel": True,
}
CAIT = {"no_mlp": zeroed("gamma_2"), "no_attn": zeroed("gamma_1"), "attention": "joins after"}
NO_CLASS = "no class token"

ZOO: dict[str, Animal] = {
    # vit
    "vit": Animal("vit", model("vit_tiny_patch16_224"), 1),
    "vit with norms inside": Animal(
        "vit", model("vit_tiny_patch16_224", qk_norm=True, reg_tokens=2, scale_attn_norm=True, scale_mlp_norm=True), 3
    ),
    "deit3": Animal("vit", model("deit3_small_patch16_224"), 1),
    "deit distilled": Animal("vit", model("deit_tiny_distilled_patch16_224"), 2),
    "dinov2 registers": Animal("vit", model("vit_small_patch14_reg4_dinov2"), 5),
    "clip": Animal("vit", model("vit_base_patch16_clip_224"), 1),
    "siglip": Animal("vit", model("vit_base_patch16_siglip_224"), 0, attention=NO_CLASS),
    "aimv2": Animal("vit", model("aimv2_large_patch14_224"), 0, attention=NO_CLASS),
    "beit3": Animal("vit", model("beit3_base_patch16_224"), 1),
    "gap with a register": Animal("vit", model("vit_medium_patch16_reg1_gap_256"), 1, attention=NO_CLASS),
    "differential": Animal("vit", model("vit_tiny_patch16_224", attn_layer="diff"), 1, attention="no one map"),
    # other blocks of VisionTransformer
    "respost": Animal("vit_respost", vit(block_fn=ResPostBlock), 1),
    "parallel": Animal("vit_parallel", model("vit_base_patch16_xp_224"), 1, **UNFUSED),
    "parallel with a register": Animal(
        "vit_parallel", model("vit_pwee_patch16_reg1_gap_256"), 1, attention=NO_CLASS, **UNFUSED
    ),
    "parallel fused": Animal(
        "vit_parallel", vit(block_fn=partial(ParallelScalingBlock, fuse_out_proj=True), init_values=0.5), 1, **FUSED
    ),
    "parallel differential": Animal(
        "vit_parallel_diff", vit(block_fn=DiffParallelScalingBlock, qk_norm=True), 1, attention="no one map", **FUSED
    ),
    "parallel things": Animal(
        "vit_parallel_things",
        model("vit_small_patch16_18x2_224"),
        1,
        no_mlp=silenced("ffns.0.drop_path", "ffns.1.drop_path"),
        no_attn=silenced("attns.0.drop_path", "attns.1.drop_path"),
    ),
    # eva
    "eva02": Animal("eva", model("eva02_tiny_patch14_224"), 1, alone=with_rope),
    "eva02 with norms inside": Animal("eva", model("eva02_base_patch14_224"), 1, alone=with_rope),
    "dinov3": Animal("eva", model("vit_small_patch16_dinov3"), 5, alone=with_rope),
    "sapiens2": Animal("eva", model("vit_base_patch16_sapiens2", since="1.0.30", num_kv_heads=1), 9, alone=with_rope),
    "perception encoder": Animal("eva", model("vit_pe_core_base_patch16_224"), 1, alone=with_rope),
    "rope mixed": Animal("eva", model("vit_small_patch16_rope_mixed_ape_224", since="1.0.31"), 1, alone=with_rope),
    "rope gap": Animal("eva", model("vit_medium_patch16_rope_reg1_gap_256"), 1, alone=with_rope, attention=NO_CLASS),
    "eva02 post-norm": Animal("eva_postnorm", model("eva02_enormous_patch14_clip_224"), 1),
    # beit
    "beit": Animal("beit", model("beit_base_patch16_224"), 1, alone=with_beit_bias),
    "beit shared bias": Animal(
        "beit",
        model("beit_base_patch16_224", use_rel_pos_bias=False, use_shared_rel_pos_bias=True, init_values=None),
        1,
        alone=with_beit_bias,
    ),
    "beit both biases": Animal(
        "beit", model("beitv2_base_patch16_224", use_shared_rel_pos_bias=True), 1, alone=with_beit_bias
    ),
    # relpos
    "relpos": Animal("relpos", model("vit_relpos_small_patch16_224"), 0, alone=with_relpos, attention=NO_CLASS),
    "relpos class token": Animal("relpos", model("vit_relpos_base_patch16_clsgap_224"), 1, alone=with_relpos),
    "relpos table": Animal(
        "relpos", model("vit_relpos_base_patch16_cls_224", rel_pos_type="bias", qk_norm=True), 1, alone=with_relpos
    ),
    "srelpos": Animal("relpos", model("vit_srelpos_small_patch16_224"), 0, alone=with_relpos, attention=NO_CLASS),
    "relpos respost": Animal(
        "relpos_respost",
        model("vit_relpos_small_patch16_rpn_224", class_token=True),
        1,
        alone=with_relpos,
    ),
    # cait
    "cait": Animal("cait", model("cait_xxs24_224"), 0, **CAIT),
    # naflexvit
    "naflexvit": Animal(
        "vit", model("naflexvit_base_patch16_gap", **NAFLEX), 4, images=naflex, alone=with_rope, attention=NO_CLASS
    ),
    "naflexvit class token": Animal(
        "vit", model("naflexvit_base_patch16_map", class_token=True, **NAFLEX), 2, images=naflex, alone=with_rope
    ),
    "naflexvit rope": Animal(
        "eva",
        model("naflexvit_base_patch16_gap", rope_type="axial", class_token=True, **NAFLEX),
        5,
        images=naflex,
        alone=with_rope,
    ),
    "naflexvit rope mixed": Animal(
        "eva",
        model("naflexvit_base_patch16_gap", since="1.0.31", rope_type="mixed", **NAFLEX),
        4,
        images=naflex,
        alone=with_rope,
        attention=NO_CLASS,
    ),
    "naflexvit on images": Animal("vit", model("naflexvit_base_patch16_siglip"), 0, attention=NO_CLASS),
}
