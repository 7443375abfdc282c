"""What `dyt.optimize` did, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from dyt.deprecated import renamed

__getattr__ = renamed(__name__, {"Report": "OptimizationReport"})


@dataclass(frozen=True)
class BlockReport:
    """One block.

    Attributes:
        path: its place in the backbone, `blocks.3`.
        rewrites: what was rewritten, in words; none where the block was left alone.
        left: what was left as it was, and why, in words.
    """

    path: str
    rewrites: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class OptimizationReport:
    """Every block, in forward order; `str` of it is for people.

    Attributes:
        blocks: one for each block of the backbone.
        leading: how many leading tokens the last block computes; None where it computes all.
    """

    blocks: tuple[BlockReport, ...]
    leading: int | None = None

    def lines(self) -> Iterator[str]:
        """A line for each run of blocks that were rewritten alike."""
        for (rewrites, left), run in groupby(self.blocks, lambda block: (block.rewrites, block.left)):
            paths = [block.path for block in run]
            which = paths[0] if len(paths) == 1 else f"{paths[0]} to {paths[-1]}"
            why = "not all of it" if rewrites else "left alone"
            yield f"{which}: {'; '.join([*rewrites, *(f'{why}: {reason}' for reason in left)])}"

    def __str__(self) -> str:
        return "\n".join(self.lines())
