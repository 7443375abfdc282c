"""What the paper prints of parameters and multiply-accumulates, beside what each preset is counted to have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dyt.config.presets import preset
from dyt.deprecated import renamed
from dyt.errors import DyTError
from dyt.measure.costs import costs
from dyt.paper.data import table

__getattr__ = renamed(__name__, {"Row": "PaperCosts"})


@dataclass(frozen=True)
class PaperCosts:
    """One row of a table of the paper and the preset that is it.

    Attributes:
        table: its number.
        name: the row, in the paper's words.
        preset: ours.
        params: trainable parameters without the head, in millions, as printed; None where the paper has none.
        gmacs: giga multiply-accumulates of one 224 x 224 image, or of a clip of eight, as printed; None where the paper
            has none, or those of another decoder.
    """

    table: int
    name: str
    preset: str
    params: float | None = None
    gmacs: float | None = None


ROWS: tuple[PaperCosts, ...] = table(PaperCosts, "costs.csv")
"""Every row that is ours or a baseline of ours; the methods that the paper only quotes are left out."""


@dataclass(frozen=True)
class Line:
    """A row beside what is computed.

    Attributes:
        row: the paper's.
        params: trainable parameters in millions, head and dispatchers left out as in the paper.
        nominal: giga multiply-accumulates with exactly the nominal share of the patch tokens active in every image.
        measured: the mean over images with random masks of that rate, each image at its own.
    """

    row: PaperCosts
    params: float
    nominal: float
    measured: float

    @property
    def params_off(self) -> float | None:
        """Ours over the paper's, minus one; 0 for less than 0.01 M apart; None where the paper has none."""
        if self.row.params is None:
            return None
        if abs(self.params - self.row.params) < 0.01:
            return 0.0
        return self.params / self.row.params - 1 if self.row.params else float("inf")

    @property
    def gmacs_off(self) -> float | None:
        """Ours (nominal) over the paper's, minus one; None where the paper has none."""
        return None if self.row.gmacs is None else self.nominal / self.row.gmacs - 1


def tables() -> list[int]:
    """The numbers of the tables that can be computed."""
    return sorted({row.table for row in ROWS})


def rows_of(chosen: Sequence[int] = ()) -> tuple[PaperCosts, ...]:
    """The rows of the chosen tables, or of all.

    Raises:
        DyTError: a table that is not among them.
    """
    unknown = sorted(set(chosen) - set(tables()))
    if unknown:
        allowed = ", ".join(map(str, tables()))
        raise DyTError(f"no table {unknown[0]} to compute; allowed: {allowed} (the others need data)")
    return tuple(row for row in ROWS if not chosen or row.table in chosen)


def lines(rows: Sequence[PaperCosts] = ROWS, images: int = 4) -> Iterator[Line]:
    """Computes rows one by one; each preset once.

    Args:
        rows: some of `ROWS`.
        images: how many random masks are averaged.
    """
    known: dict[str, tuple[float, float, float]] = {}
    for row in rows:
        if row.preset not in known:
            found = costs(preset(row.preset), images=images)
            known[row.preset] = (found.trainable - found.dispatchers) / 1e6, found.nominal / 1e9, found.executed / 1e9
        yield Line(row, *known[row.preset])
