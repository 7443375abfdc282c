"""Tiny backbones of timm whose tokens are maps or change in number: Swin, Swin V2, Hiera, SAM's ViT."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from families.tiny import Tiny
from laws.models import CLASSES

SWIN = {"img_size": 32, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
HIERA = {"img_size": 64, "embed_dim": 16, "stages": (1, 2, 1, 1), "num_heads": 1}
SAM = {"img_size": 40, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "window_size": 3}
SAM |= {"global_attn_indexes": (1,)}


def _timm(name: str, dropout: bool = True, **args: Any) -> Any:
    def make(noise: float) -> nn.Module:
        rates = {"drop_path_rate": noise} | ({"proj_drop_rate": noise, "attn_drop_rate": noise} if dropout else {})
        return timm.create_model(name, num_classes=CLASSES, **rates, **args)

    return make


def _swin(**args: Any) -> Any:
    return _timm("swin_tiny_patch4_window7_224", **(SWIN | args))


def _swin_v2(**args: Any) -> Any:
    return _timm("swinv2_tiny_window8_256", **(SWIN | args))


def _hiera(**args: Any) -> Any:
    return _timm("hiera_tiny_224", dropout=False, **(HIERA | args))


def _sam(**args: Any) -> Any:
    return _timm("samvit_base_patch16_224", **(SAM | args))


HIERARCHICAL = {
    "swin": Tiny("swin", _swin(), 0, ("mlp",)),
    "swin, any image size": Tiny("swin", _swin(strict_img_size=False), 0, ("mlp",), (40, 28)),
    "swin, three stages": Tiny("swin", _swin(depths=(1, 2, 1), num_heads=(1, 2, 4), head_dim=8), 0, ("mlp",)),
    "swin_v2": Tiny("swin_v2", _swin_v2(), 0, ("mlp",), mlp="norm2"),
    "swin_v2, any image size": Tiny("swin_v2", _swin_v2(strict_img_size=False), 0, ("mlp",), (36, 48), mlp="norm2"),
    "hiera": Tiny("hiera", _hiera(), 0, ("mlp",), (64, 64)),
    "hiera, windows' positions, layer scale": Tiny(
        "hiera", _hiera(abs_win_pos_embed=True, init_values=0.5), 0, ("mlp",), (64, 64)
    ),
    "hiera, pooled shortcuts": Tiny("hiera", _hiera(use_expand_proj=False), 0, ("mlp",), (64, 64)),
    "sam": Tiny("sam", _sam(neck_chans=16), 0, ("mlp",), (40, 40)),
    "sam, other image size": Tiny("sam", _sam(use_abs_pos=True, init_values=0.5), 0, ("mlp",), (48, 40)),
    "sam, rope, two-layer head": Tiny(
        "sam", _sam(use_rel_pos=False, use_rope=True, head_hidden_size=24), 0, ("mlp",), (40, 40)
    ),
}
"""By a name for people."""
