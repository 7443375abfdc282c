"""What a search found: tests of the chosen points, averages, paired differences, and what was chosen from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from dyt.sweeps.pool import Outcome
from dyt.sweeps.search import Found, Key, Search, accuracy, mean_accuracy
from dyt.sweeps.statistics import Paired, Spread
from dyt.sweeps.vtab1k import GROUPS, TASKS
from dyt.train.state import write_whole

OPTIMISM = (
    "NOT A RESULT: the epoch of each run was picked by its test accuracy. "
    "This is what that procedure would have claimed."
)


def evidence(search: Search, found: Found) -> dict[str, Any]:
    """All of it as plain data; what is not there yet is left out or None. Accuracies and rates are fractions.

    `tests` has a row for each task and arm, `averages` the means of tasks and of VTAB-1K's groups for each arm (of the
    groups only where all 19 tasks are there), each with the deviation over seeds; `differences` are between arms, on
    the test images. `validation` has every point's mean, and how far it is from the best point of its arm in the
    same tasks and seeds; `chosen_by` says with which images.
    """
    definition = search.definition()
    names = [task.name for task in search.tasks]
    complete = len(found.tested) == len(search.arms) * len(names) * len(search.seeds) and _whole(found.tested)
    return {
        "tasks": definition["tasks"],
        "seeds": list(search.seeds),
        "choose_once": search.once,
        "validation": [row for arm in search.arms for row in _validation(search, found, arm)],
        "tests": [row for name in names for arm in search.arms if (row := _test(search, found, name, arm))],
        "averages": [_average(search, found, arm) for arm in search.arms] if complete else [],
        "differences": _differences(search, found) if complete else [],
        "failed": {
            f"{kind}: {_words(key)}": outcome.error
            for kind, outcomes in (("validation", found.validated), ("test", found.tested))
            for key, outcome in outcomes.items()
            if outcome.error is not None
        },
        "not_a_result": _optimism(search, found) if complete and search.optimism else None,
    }


def _words(key: Key) -> str:
    return f"{key[0]}, {key[1].label}, seed {key[2]}"


def _whole(outcomes: Mapping[Key, Outcome]) -> bool:
    return all(outcome.result is not None for outcome in outcomes.values())


def _validation(search: Search, found: Found, arm: str) -> list[dict[str, Any]]:
    """A row for each point of an arm, as soon as all its runs are finished; the differences as soon as all are."""
    names, points = [task.name for task in search.tasks], search.arms[arm]
    keys = {point: [(name, point, seed) for name in names for seed in search.seeds] for point in points}
    done = {
        point: {(name, seed): accuracy(found.validated[name, point, seed]) for name, point, seed in keys[point]}
        for point in points
        if all(key in found.validated and found.validated[key].result is not None for key in keys[point])
    }
    best = None
    if len(done) == len(points):
        best = max(points, key=lambda point: mean_accuracy(found.validated, names, point, search.seeds))
    rows = []
    for point, values in done.items():
        paired = asdict(Paired.of(values, done[best])) if best is not None and best != point else None
        rows.append(
            {
                "arm": arm,
                "point": point.label,
                **_over_seeds([fmean(values[name, seed] for name in names) for seed in search.seeds]),
                "by_task": {name: fmean(values[name, seed] for seed in search.seeds) for name in names},
                "to_best": paired,
                "chosen_for": [name for name in names if found.chosen.get((name, arm)) == point],
            }
        )
    return rows


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    spread = Spread.of(values)
    return {"accuracy": spread.mean, "deviation": spread.deviation, "seeds": list(values)}


def _test(search: Search, found: Found, name: str, arm: str) -> dict[str, Any] | None:
    if (name, arm) not in found.chosen:
        return None
    point = found.chosen[name, arm]
    keys = [(name, point, seed) for seed in search.seeds]
    outcomes = [found.tested[key] for key in keys if key in found.tested]
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    if len(results) < len(search.seeds):
        return None
    tests = [result.test for result in results]
    group = next((task.group for task in search.tasks if task.name == name), None)
    return {
        "group": group,
        "task": name,
        "arm": arm,
        "chosen": point.choice,
        "images": tests[0].images,
        **_over_seeds([accuracy(outcome) for outcome in outcomes]),
        "active_rate": fmean(test.active_rate for test in tests),
        "gmacs": fmean(test.gmacs for test in tests),
        "gmacs_dense": tests[0].gmacs_dense,
        "trainable_without_head": results[0].trainable_without_head,
        "minutes": sum(result.seconds for result in results) / 60,
    }


def _values(search: Search, found: Found, arm: str) -> dict[tuple[str, int], float]:
    """Test accuracies of an arm by (task, seed)."""
    names = [task.name for task in search.tasks]
    return {
        (name, seed): accuracy(found.tested[name, found.chosen[name, arm], seed])
        for name in names
        for seed in search.seeds
    }


def _averages(search: Search, values: Mapping[tuple[str, int], float]) -> dict[str, Any]:
    """The mean of tasks and, of the whole benchmark, that of its groups: of each seed, then over seeds."""
    names = [task.name for task in search.tasks]
    rows: dict[str, Any] = {
        "tasks": _over_seeds([fmean(values[name, seed] for name in names) for seed in search.seeds]),
        "groups": None,
    }
    if {task.name for task in TASKS} <= set(names):
        groups = [[task.name for task in TASKS if task.group == group] for group in GROUPS]
        means = [fmean(fmean(values[name, seed] for name in group) for group in groups) for seed in search.seeds]
        rows["groups"] = _over_seeds(means)
    return rows


def _average(search: Search, found: Found, arm: str) -> dict[str, Any]:
    return {"arm": arm, **_averages(search, _values(search, found, arm))}


def _differences(search: Search, found: Found) -> list[dict[str, Any]]:
    values = {arm: _values(search, found, arm) for arm in search.arms}
    return [
        {"more": one, "less": other, **asdict(Paired.of(values[one], values[other]))}
        for other, one in combinations(values, 2)
    ]


def _optimism(search: Search, found: Found) -> dict[str, Any]:
    rows = []
    for arm in search.arms:
        honest = _values(search, found, arm)
        best = {key: found.best_epochs[key[0], found.chosen[key[0], arm], key[1]] for key in honest}
        claimed = {name: fmean(best[name, seed] for seed in search.seeds) for name in (t.name for t in search.tasks)}
        rows.append(
            {
                "arm": arm,
                "by_task": claimed,
                **_averages(search, best),
                "above_the_result": asdict(Paired.of(best, honest)),
            }
        )
    return {"what": OPTIMISM, "arms": rows}


def write_evidence(out: Path, title: str, found: Mapping[str, Any], text: str) -> None:
    """Writes results.json and results.md into a directory; each is whole at any moment."""
    write_whole(out / "results.json", json.dumps({"title": title, **found}, indent=2) + "\n")
    write_whole(out / "results.md", text)
