"""The paper's tables from presets: every row is there, parameters as printed; multiply-accumulates with `--full`."""

import pytest
import torch

import dyt
from dyt.measure.paper import ROWS, Row, lines, tables
from dyt.model import head_keys

PRESETS = sorted({row.preset: row for row in ROWS}.values(), key=lambda row: row.preset)
UNLIKE = {"vpt_vtab": "gmacs", "dyt_swin_b_r0.1": "gmacs"}
"""Rows whose printed figures do not belong together, or to the nominal rate: docs/paper.md says why."""


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


@pytest.mark.parametrize("row", [row for row in ROWS if row.params is not None], ids=lambda row: row.preset)
def test_parameters_are_those_of_the_paper(row: Row) -> None:
    assert row.params is not None
    found = trained(row.preset)
    far = {"dynamicvit_adaptformer": 0.06, "dyt_vit_l_vtab": 0.03}.get(row.preset, 0.01)  # docs/paper.md says why
    assert abs(found - row.params) < far or found == pytest.approx(row.params, rel=0.01)


@pytest.mark.parametrize("row", PRESETS, ids=lambda row: row.preset)
def test_multiply_accumulates_are_near_the_paper_s(row: Row, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--full"):
        pytest.skip("runs models of full size; use --full")
    if row.gmacs is None:
        pytest.skip("the paper prints none for this row")
    (line,) = (line for line in lines([row.table], images=1) if line.row == row)
    assert line.gmacs_off is not None
    if row.preset not in UNLIKE:
        assert abs(line.gmacs_off) <= 0.06


def test_every_table_that_needs_no_data_is_there() -> None:
    assert tables() == [1, 2, 3, 5, 6, 7, 8, 9, 12, 17, 18, 19]
    assert {row.preset for row in ROWS} <= set(dyt.presets())


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(dyt.DyTError, match=r"no table 4 .*allowed: 1, 2, 3"):
        list(lines([4]))


def test_differences() -> None:
    from dyt.measure.paper import Line

    line = Line(Row(1, "x", "dyt", 1.19, 10.0), params=1.195, nominal=11.0, measured=11.0)
    assert line.params_off == 0.0
    assert line.gmacs_off == pytest.approx(0.1)
    assert Line(Row(7, "x", "dyt"), 1.0, 1.0, 1.0).params_off is None
    assert Line(Row(3, "x", "dyt", 2.0, None), 1.0, 1.0, 1.0).params_off == pytest.approx(-0.5)
