"""A table of budgets: what is one, and what its thresholds are at, between and beyond its rates."""

from itertools import pairwise
from statistics import NormalDist
from typing import Any

import pytest
import torch

from dyt.core.budgets import MOST_RATES, BudgetTable, SiteBudgets
from dyt.core.scores import LEAST
from dyt.errors import DyTError

RATES = (0.1, 0.5, 0.9, 1.0)
SOUND: dict[str, Any] = {
    "rates": RATES,
    "reached": RATES,
    "sites": {"a": SiteBudgets((2.0, 0.0, -2.0, -3.0), RATES), "b": SiteBudgets((2.5, 0.5, -1.5, -2.5), RATES)},
}


def test_a_row_is_what_was_calibrated() -> None:
    table = BudgetTable(**SOUND)
    assert table.range == (0.1, 1.0)
    assert table.thresholds(0.1) == {"a": 2.0, "b": 2.5}
    assert table.thresholds(0.9) == {"a": -2.0, "b": -1.5}
    assert table.thresholds(0.5) == {"a": LEAST, "b": 0.5}  # never 0, at which ties are not broken


def test_at_1_it_is_far_below_all() -> None:
    assert BudgetTable(**SOUND).thresholds(1.0) == {"a": -3.0 - 10 * (1 + 5.0), "b": -2.5 - 10 * (1 + 5.0)}
    assert BudgetTable(**SOUND).thresholds(0.9999)["a"] == pytest.approx(-3.0)


def test_between_rows_it_descends_and_is_exact_for_normal_logits() -> None:
    bell = NormalDist()
    rows = (0.1, 0.3, 0.6, 0.9)
    quantiles = tuple(bell.inv_cdf(1 - rate) for rate in rows)
    table = BudgetTable(rows, rows, {"a": SiteBudgets(quantiles, rows)})
    asked = [0.1 + 0.8 * i / 200 for i in range(201)]
    found = [table.thresholds(min(rate, 0.9))["a"] for rate in asked]
    assert all(a > b for a, b in pairwise(found))
    assert max(abs(1 - bell.cdf(t) - rate) for t, rate in zip(found, asked, strict=True)) < 1e-9


@pytest.mark.parametrize("rate", [0.0, 0.0999, 1.01, float("nan")])
def test_beyond_its_rates_it_is_refused(rate: float) -> None:
    with pytest.raises(DyTError, match=r"budget is .*; allowed are rates from 0\.1 to 1, those that were calibrated"):
        BudgetTable(**SOUND).thresholds(rate)


def test_a_rate_that_was_rounded_to_float32_is_its_row() -> None:
    rows = (0.7, 0.9)
    table = BudgetTable(rows, rows, {"a": SiteBudgets((1.0, -1.0), rows)})
    rounded = [float(rate) for rate in torch.tensor(rows)]
    assert rounded[0] < 0.7
    assert [table.thresholds(rate)["a"] for rate in rounded] == pytest.approx([1.0, -1.0], abs=1e-5)


A = SOUND["sites"]["a"]
NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rates": (0.5,)}, "from 2 to 1000 rates; given 1"),
        ({"rates": tuple((i + 1) / 2000 for i in range(MOST_RATES + 1))}, "from 2 to 1000 rates; given 1001"),
        ({"rates": (0.5, 0.1, 0.9, 1.0)}, "rates that ascend"),
        ({"rates": (0.1, 0.1, 0.9, 1.0)}, "rates that ascend"),
        ({"rates": (0.0, 0.5, 0.9, 1.0)}, "above 0 and at most 1"),
        ({"rates": (0.1, 0.5, 0.9, 1.1)}, "above 0 and at most 1"),
        ({"rates": (NAN, 0.5, 0.9, 1.0)}, "above 0 and at most 1"),
        ({"sites": {}}, "at least one site"),
        ({"reached": (0.1, 0.5)}, "for each of its 4 rates; given .*all sites"),
        ({"reached": (0.1, 0.5, 0.9, 2.0)}, "from 0 to 1 .*all sites"),
        ({"sites": {"a": SiteBudgets(A.thresholds, (0.1, NAN, 0.9, 1.0))}}, "from 0 to 1 .* of 'a'"),
        ({"sites": {"a": SiteBudgets((1.0, 2.0, 0.0, -1.0), RATES)}}, "none above the one before; given .* of 'a'"),
        ({"sites": {"a": SiteBudgets((1.0, 0.0), RATES)}}, "threshold for each of its 4 rates"),
        ({"sites": {"a": SiteBudgets((INFINITE, 1.0, 0.0, -1.0), RATES)}}, "a finite threshold"),
        ({"sites": {"a": SiteBudgets((1.0, NAN, 0.0, -1.0), RATES)}}, "a finite threshold"),
    ],
)
def test_anything_else_is_no_table(change: dict[str, Any], words: str) -> None:
    BudgetTable(**SOUND)
    with pytest.raises(DyTError, match=words) as caught:
        BudgetTable(**SOUND | change)
    assert len(str(caught.value)) < 300
