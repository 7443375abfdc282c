"""Student's quantiles beside SciPy's and printed ones, and intervals that were computed by hand."""

import math

import pytest

from dyt.sweeps.statistics import Difference, Paired, Spread, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 56, 171])
@pytest.mark.parametrize("probability", [0.6, 0.95, 0.975, 0.995])
def test_quantiles_are_scipys(freedom: int, probability: float) -> None:
    scipy_stats = pytest.importorskip("scipy.stats", reason="scipy computes them for comparison")
    assert t_quantile(freedom, probability) == pytest.approx(scipy_stats.t.ppf(probability, freedom), rel=1e-12)


def test_a_printed_table_has_them_too() -> None:
    assert [round(t_quantile(freedom, 0.975), 3) for freedom in (1, 2, 10)] == [12.706, 4.303, 2.228]


def test_a_spread_is_the_samples() -> None:
    assert Spread.of([1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3)
    assert Spread.of([4.0]) == Spread(4.0, None, 1)


def test_an_interval_by_hand() -> None:
    """Mean 2 and deviation 1 of three: 2 +- 4.303 / sqrt(3)."""
    found = Difference.of([1.0, 2.0, 3.0])
    assert (found.mean, found.pairs) == (2.0, 3)
    assert found.low == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-5)
    assert found.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-5)
    assert Difference.of([0.5]) == Difference(0.5, None, None, 1)


def test_pairs_are_of_one_task_and_seed() -> None:
    less = {("a", 0): 0.0, ("a", 1): 0.5, ("b", 0): 0.25, ("b", 1): 0.75}
    more = {key: value + {"a": 0.25, "b": 0.5}[key[0]] for key, value in reversed(less.items())}
    found = Paired.of(more, less)
    assert found.runs == Difference.of([0.5, 0.5, 0.25, 0.25])
    assert (found.tasks.mean, found.tasks.pairs) == (0.375, 2)
