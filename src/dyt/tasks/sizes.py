"""Sizes of images in data specs: one side, or (H, W)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Field, Tag

Pixels = Annotated[int, Field(ge=1)]


def _side_or_pair(value: Any) -> str:
    return "pair" if isinstance(value, (list, tuple)) else "side"


Size: TypeAlias = Annotated[
    Annotated[Pixels, Tag("side")] | Annotated[tuple[Pixels, Pixels], Tag("pair")],
    Discriminator(_side_or_pair),  # so that a wrong one is answered once, for what it was meant to be
]
"""Pixels of a side of a square, or (H, W)."""


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(H, W)."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def cover(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) scaled, both alike, to the smallest that covers (H, W)."""
    if height * size[1] <= width * size[0]:  # its height is what is short
        return size[0], max(int(size[0] * width / height), size[1])
    return max(int(size[1] * height / width), size[0]), size[1]
