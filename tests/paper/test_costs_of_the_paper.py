"""The paper's tables from presets: every row is there and on docs/paper.md, parameters as printed; with `--full`,
every multiply-accumulate of the page is counted again.
"""

import re
from functools import cache
from pathlib import Path

import pytest
import torch

import dyt
from dyt.cli.paper import COLUMNS, cells
from dyt.model.parts import head_keys
from dyt.paper.costs import ROWS, Line, PaperCosts, lines, rows_of, tables

PAGE = Path(__file__).parents[2] / "docs" / "paper.md"
PRESETS = sorted({row.preset: row for row in ROWS}.values(), key=lambda row: row.preset)
CHEAP = ("dyt_vtab", "linear", "vpt")
"""Presets whose multiply-accumulates are counted without `--full` too."""


@cache
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def on_page() -> list[list[str]]:
    """The cells of the table that `dyt paper --markdown` wrote, row by row."""
    written = page().splitlines()
    start = written.index(f"| {' | '.join(COLUMNS)} |") + 2
    end = next(i for i, line in enumerate(written[start:], start) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in written[start:end]]


def share(cell: str) -> float:
    """Of a cell such as "-6.1%"; 0 for an empty one."""
    return float(cell.rstrip("%")) / 100 if cell else 0.0


def why() -> str:
    """The part of the page that says what differs."""
    return page().split("## What differs, and why", 1)[1].split("\n## ", 1)[0]


def trained(preset: str) -> float:
    """Millions of trained parameters without head and dispatchers; nothing is computed or kept."""
    spec = dyt.preset(preset)
    spec = spec.model_copy(update={"backbone": spec.backbone.model_copy(update={"weights": "none"})})
    with torch.device("meta"):
        model = dyt.build(spec)
    head = head_keys(model.backbone)
    named = model.backbone.named_parameters()
    trained = sum(p.numel() for n, p in named if p.requires_grad and n not in head)
    return (trained - sum(p.numel() for site in model.sites for p in site.dispatcher.parameters())) / 1e6


@pytest.mark.parametrize("row", PRESETS, ids=lambda row: row.preset)
def test_parameters_are_those_of_the_page(row: PaperCosts) -> None:
    cells = {cells[3] for cells in on_page() if cells[2] == row.preset}
    assert cells == {f"{trained(row.preset):.2f}"}


@pytest.mark.parametrize("row", PRESETS, ids=lambda row: row.preset)
def test_multiply_accumulates_are_those_of_the_page(row: PaperCosts, request: pytest.FixtureRequest) -> None:
    if row.preset not in CHEAP and not request.config.getoption("--full"):
        pytest.skip("counts on models of full size; use --full")
    (line,) = lines([row])
    assert cells(line) in on_page()


def test_the_page_has_every_row_in_order_and_the_paper_s_columns() -> None:
    unknown = {"params": 0.0, "nominal": 0.0, "measured": 0.0}
    expected = [cells(Line(row, **unknown)) for row in ROWS]
    kept = [0, 1, 2, 4, 8]
    assert [[row[i] for i in kept] for row in on_page()] == [[row[i] for i in kept] for row in expected]


def test_the_page_s_differences_are_those_of_its_figures() -> None:
    for row in on_page():
        for ours, paper, off, least in ((row[3], row[4], row[5], 0.01), (row[6], row[8], row[9], 0.0)):
            assert bool(paper) == bool(off)
            if paper and float(paper):
                near = abs(float(ours) - float(paper)) < least + 0.005
                # the figures are rounded to 0.01, the difference is not
                assert share(off) == pytest.approx(float(ours) / float(paper) - 1, abs=0.006 / float(paper) + 6e-4) or (
                    near and share(off) == 0
                )


def test_what_is_outside_the_tolerance_is_explained_and_nothing_else_is_outside() -> None:
    """Parameters within 0.01 M or 1 %, multiply-accumulates within 6 %."""
    outside = {row[2] for row in on_page() if abs(share(row[5])) > 0.01 or abs(share(row[9])) > 0.06}
    marked = re.findall(r"^- \*\*(.+?)\*\*", why(), re.MULTILINE)
    assert {name for group in marked for name in re.findall(r"`([^`]+)`", group)} == outside


def test_every_preset_that_the_page_names_exists() -> None:
    prose = "\n".join(line for line in page().splitlines() if not line.startswith("|"))
    named = set(re.findall(r"`([a-z]+[a-z0-9]*(?:_[a-z0-9.]+)*)`", prose)) | {row[2] for row in on_page()}
    assert named <= set(dyt.presets())


def test_every_table_that_needs_no_data_is_there() -> None:
    assert tables() == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 17, 18, 19]
    assert {row.preset for row in ROWS} <= set(dyt.presets())


def test_rows_of_tables() -> None:
    assert rows_of([]) == ROWS
    assert {row.table for row in rows_of([1, 8])} == {1, 8}


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(dyt.DyTError, match=r"no table 4 .*allowed: 1, 2, 3"):
        rows_of([4])


def test_differences() -> None:
    line = Line(PaperCosts(1, "x", "dyt", 1.19, 10.0), params=1.195, nominal=11.0, measured=11.0)
    assert line.params_off == 0.0
    assert line.gmacs_off == pytest.approx(0.1)
    assert Line(PaperCosts(7, "x", "dyt"), 1.0, 1.0, 1.0).params_off is None
    assert Line(PaperCosts(3, "x", "dyt", 2.0, None), 1.0, 1.0, 1.0).params_off == pytest.approx(-0.5)
