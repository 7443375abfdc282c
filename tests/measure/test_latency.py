"""Paired latency, under a clock that the functions themselves move."""

import pytest

from dyt.errors import DyTError
from dyt.measure.latency import median_interval, paired


class Clock:
    """Seconds that pass only when something is run."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, []

    def __call__(self) -> float:
        return self.now

    def takes(self, name, *seconds):
        turns = iter(seconds)

        def run():
            self.calls.append(name)
            self.now += next(turns)

        return run


def test_calls_run_in_turns_and_warm_up_is_not_timed():
    clock = Clock()
    found = paired({"a": clock.takes("a", 9, 1, 1, 1), "b": clock.takes("b", 9, 2, 2, 2)}, 3, 1, clock)
    assert clock.calls == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert found.seconds == {"a": (1, 1, 1), "b": (2, 2, 2)}


def test_a_slow_round_strikes_both_and_leaves_the_ratio():
    clock = Clock()
    fns = {"a": clock.takes("a", 1, 50, 1), "b": clock.takes("b", 2, 100, 2)}
    speedup = paired(fns, 3, 0, clock).speedup("a", over="b")
    assert (speedup.median, speedup.low, speedup.high) == (2, 2, 2)


def test_best_is_the_fastest_call():
    clock = Clock()
    assert paired({"a": clock.takes("a", 3, 2, 4)}, 3, 0, clock).best("a") == 2


@pytest.mark.parametrize(("n", "low", "high"), [(6, 1, 6), (9, 2, 8), (11, 2, 10), (20, 6, 15)])
def test_order_statistics_are_those_of_the_sign_test_tables(n, low, high):
    interval = median_interval([float(i) for i in range(1, n + 1)])
    assert (interval.low, interval.high) == (low, high)
    assert interval.coverage >= 0.95


def test_too_few_pairs_say_so():
    assert median_interval([1.0, 2.0, 3.0]).coverage == pytest.approx(0.75)


@pytest.mark.parametrize("bad", [{"pairs": 0}, {"warmup": -1}])
def test_bad_numbers_are_refused(bad):
    with pytest.raises(DyTError, match="pairs >= 1"):
        paired({"a": lambda: None}, **bad)
