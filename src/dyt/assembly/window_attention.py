"""Attention within windows of a plain ViT's patches, for large images (ViTDet, arXiv:2203.16527, section 3).

Most blocks attend within windows, a few among all tokens. Weights, names and shapes of the backbone stay as they are:
what goes into an attention module is cut into windows before it, and put together behind it.

Shapes: B images, (h, w) patches, P prefix tokens, N = P + h w, C channels, W windows of (a, b) patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.config.spec import BackboneSpec, DyTSpec
from dyt.dispatchers.base import Dispatcher
from dyt.errors import DyTError
from dyt.families.base import Family
from dyt.model.block import DynamicBlock

PARTS = 4
"""Blocks with global attention by default: the last of each of so many equal parts of the depth, as in ViTDet."""


@dataclass(frozen=True)
class Tiling:
    """(h, w) patches as `rows` x `columns` windows of (a, b) patches, which at the right and bottom may lack some."""

    grid: tuple[int, int]
    rows: int
    columns: int
    window: tuple[int, int]

    @staticmethod
    def of(grid: tuple[int, int], size: int) -> Tiling:
        """As few windows of at most size x size patches as cover the grid, as equal as they can be."""
        rows, columns = (ceil(side / size) for side in grid)
        return Tiling(grid, rows, columns, (ceil(grid[0] / rows), ceil(grid[1] / columns)))

    @property
    def windows(self) -> int:
        """Their number W."""
        return self.rows * self.columns

    @property
    def whole(self) -> bool:
        """Whether no window lacks a patch."""
        return self.grid == (self.rows * self.window[0], self.columns * self.window[1])

    def cut(self, patches: Tensor) -> Tensor:
        """(B, h * w, C) -> (B, W, a * b, C), zeros where a window lacks a patch."""
        (h, w), (a, b) = self.grid, self.window
        missing = (0, 0, 0, self.columns * b - w, 0, self.rows * a - h)
        whole = F.pad(patches.reshape(patches.shape[0], h, w, -1), missing)
        apart = whole.reshape(patches.shape[0], self.rows, a, self.columns, b, -1).transpose(2, 3)
        return apart.flatten(3, 4).flatten(1, 2)

    def join(self, windows: Tensor) -> Tensor:
        """(B, W, a * b, C) -> (B, h * w, C); the inverse of `cut`."""
        (h, w), (a, b) = self.grid, self.window
        apart = windows.reshape(windows.shape[0], self.rows, self.columns, a, b, -1).transpose(2, 3)
        return apart.flatten(3, 4).flatten(1, 2)[:, :h, :w].flatten(1, 2)


class Grid:
    """How many patches the images have that are in a backbone; of images of any size, what its stem saw last."""

    def __init__(self, backbone: Any) -> None:
        self.embed, self.seen = backbone.patch_embed, None
        if backbone.dynamic_img_size:
            self.embed.register_forward_pre_hook(self._see)

    def _see(self, embed: Any, args: tuple[Tensor, ...]) -> None:
        self.seen = embed.dynamic_feat_size(tuple(args[0].shape[-2:]))

    def size(self) -> tuple[int, int]:
        """(h, w) patches."""
        height, width = self.seen or self.embed.grid_size
        return int(height), int(width)


class WindowHooks:
    """Makes an attention module attend within windows, by hooks before and behind it.

    Prefix tokens are in every window; what they become is the mean over windows. A window that covers the grid is
    global attention.
    """

    def __init__(self, attn: nn.Module, size: int, grid: Grid) -> None:
        self.size, self.grid = size, grid
        attn.register_forward_pre_hook(self.enter, with_kwargs=True)
        attn.register_forward_hook(self.leave)

    def enter(
        self, attn: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """Tokens (B, N, C) -> (B * W, P + a * b, C), with a mask of what windows lack.

        Raises:
            DyTError: an attention mask, or patch tokens that are not the grid's.
        """
        x, tiling = args[0], self.tiling()
        prefix = x.shape[1] - tiling.grid[0] * tiling.grid[1]
        if prefix < 0:
            raise DyTError(
                f"attention in windows needs all {tiling.grid[0]} x {tiling.grid[1]} patch tokens; given {x.shape[1]}"
            )
        if kwargs.get("attn_mask") is not None or kwargs.get("is_causal"):
            raise DyTError("attention in windows takes no attention mask; set backbone.window_size: null")
        windows = tiling.cut(x[:, prefix:])
        shared = x[:, None, :prefix].expand(-1, tiling.windows, -1, -1)
        tokens = torch.cat([shared, windows], 2).flatten(0, 1)
        return (tokens,), {**kwargs, "attn_mask": self._mask(tiling, prefix, x)}

    def leave(self, attn: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """(B * W, P + a * b, C) -> (B, N, C)."""
        tiling = self.tiling()
        apart = out.reshape(-1, tiling.windows, *out.shape[1:])
        prefix = out.shape[1] - tiling.window[0] * tiling.window[1]
        return torch.cat([apart[:, :, :prefix].mean(1), tiling.join(apart[:, :, prefix:])], 1)

    def tiling(self) -> Tiling:
        """Of the images that are in the backbone."""
        return Tiling.of(self.grid.size(), self.size)

    def _mask(self, tiling: Tiling, prefix: int, x: Tensor) -> Tensor | None:
        """(B * W, 1, 1, P + a * b) bool, False where a window lacks a patch; None when all are whole."""
        if tiling.whole:
            return None
        there = x.new_ones(1, tiling.grid[0] * tiling.grid[1], 1, dtype=torch.bool)
        seen = F.pad(tiling.cut(there).squeeze(-1), (prefix, 0), value=True)[0]
        return seen.repeat(x.shape[0], 1)[:, None, None]


def windows_of(attn: nn.Module) -> WindowHooks | None:
    """What makes this attention module attend within windows; None when nothing does."""
    owners = (getattr(hook, "__self__", None) for hook in attn._forward_hooks.values())
    return next((owner for owner in owners if isinstance(owner, WindowHooks)), None)


def take_windows(backbone: nn.Module) -> None:
    """Takes back what `put_windows` did; nothing where it did nothing."""
    for module in backbone.modules():
        for hooks, others in (
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
            (module._forward_hooks, module._forward_hooks_with_kwargs),
        ):
            ours = [k for k, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), (WindowHooks, Grid))]
            for key in ours:
                del hooks[key]
                others.pop(key, None)


def global_blocks(spec: BackboneSpec, depth: int) -> tuple[int, ...]:
    """The positions of the blocks that attend among all tokens."""
    if spec.global_attn_indexes is not None:
        return spec.global_attn_indexes
    return tuple(sorted({max(round(depth * part / PARTS) - 1, 0) for part in range(1, PARTS + 1)}))


def window_refusal(spec: BackboneSpec, backbone: nn.Module, family: Family) -> str | None:
    """Why this backbone cannot have the windows of its spec; None when it can."""
    reason = family.window_refusal(backbone)
    if reason is not None:
        return reason
    paths = family.blocks(backbone)
    wholes = global_blocks(spec, len(paths))
    outside = [i for i in wholes if not 0 <= i < len(paths)]
    if outside:
        return f"backbone.global_attn_indexes: no block {outside[0]}; it has blocks 0 to {len(paths) - 1}"
    for i, path in enumerate(paths):
        there = windows_of(backbone.get_submodule(f"{path}.attn"))
        if there is not None and (i in wholes or there.size != spec.window_size):
            return f"it has other windows already, of {there.size} at {path}; give one without"
    return None


def combination_refusal(spec: DyTSpec, variant: type[DynamicBlock], dispatcher: type[Dispatcher]) -> str | None:
    """What else of a spec its windows do not go with; None for nothing, and where it asks for no windows."""
    if spec.backbone.window_size is None:
        return None
    if set(variant.dispatched) != {"mlp"}:
        return f"windows hold all of their tokens, and variant '{spec.variant.type}' attends among active ones; use mlp"
    if dispatcher.needs_attention:
        return f"dispatcher '{spec.dispatcher.type}' ranks tokens by the class token's attention to all of them"
    return None if spec.reducer is None else f"reducer '{spec.reducer.type}' leaves fewer tokens than windows hold"


def put_windows(spec: BackboneSpec, backbone: nn.Module, family: Family) -> None:
    """Gives a backbone for which `window_refusal` is None the windows of its spec; nothing where it has them."""
    assert spec.window_size is not None
    paths, grid = family.blocks(backbone), None
    wholes = global_blocks(spec, len(paths))
    for i, path in enumerate(paths):
        attn = backbone.get_submodule(f"{path}.attn")
        if i not in wholes and windows_of(attn) is None:
            grid = grid or Grid(backbone)
            WindowHooks(attn, spec.window_size, grid)
