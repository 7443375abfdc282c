"""The tables of a search: cells as text, and all of them as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """A table with its heading, the columns' names, rows of as many cells, and a line of text below it."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """As Markdown."""
        rule = ["---" if place == 0 else "---:" for place in range(len(self.columns))]
        lines = (f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows))
        return f"## {self.heading}\n\n" + "\n".join(lines) + "\n" + (f"\n{self.note}\n" if self.note else "")


INTERVALS = (
    "95 % by Student's t of paired differences, in points: over pairs of the same task and seed, and over the tasks' "
    "means. Seeds of one task are not independent of one another, so with several tasks the second says more about "
    "others. No correction for many comparisons."
)


def tables(found: Mapping[str, Any]) -> Iterator[Table]:
    """Those for which there are rows: tests with averages, differences, validation, and what is no result."""
    compared = len({row["arm"] for row in (*found["tests"], *found["validation"])}) > 1
    if found["tests"]:
        yield _tests(found, compared)
    if found["differences"]:
        rows = [[f"{row['more']} over {row['less']}", *_paired(row)] for row in found["differences"]]
        yield Table("Differences on the test images", ("", *PAIRED), rows, INTERVALS)
    if found["validation"]:
        yield _validation(found, compared)
    if found["not_a_result"] is not None:
        yield _optimism(found["not_a_result"], compared)


def _tests(found: Mapping[str, Any], compared: bool) -> Table:
    rows = []
    for row in found["tests"]:
        numbers = (_number(row["active_rate"], ".2f"), _number(row["gmacs"], ".4g"), _number(row["gmacs_dense"], ".4g"))
        rows.append([row["task"], *_arm(row, compared), row["chosen"], *_spread(row), *numbers])
    for row in found["averages"]:
        for what, name in (("tasks", "mean of tasks"), ("groups", "mean of VTAB-1K's groups")):
            if row[what] is not None:
                rows.append([name, *_arm(row, compared), "", *_spread(row[what]), "", "", ""])
    seeds = len(found["seeds"])
    note = (
        f"Tested once after the last epoch; mean and standard deviation of {seeds} seed{'s' * (seeds != 1)}, per cent."
    )
    return Table(
        "Test", ("task", *ARM[: len(ARM) * compared], "chosen", "top-1", "±", "active", "GMACs", "dense"), rows, note
    )


def _validation(found: Mapping[str, Any], compared: bool) -> Table:
    several = len(found["tasks"]) > 1
    rows = [
        [
            row["point"],
            *_spread(row),
            *(_paired(row["to_best"]) if row["to_best"] is not None else ["", "", ""]),
            *([f"{len(row['chosen_for'])} of {len(found['tasks'])}"] if several else ["yes" * bool(row["chosen_for"])]),
        ]
        for row in found["validation"]
    ]
    how = "one for all tasks, by their mean" if found["choose_once"] else "for each task its best"
    splits = sorted({f"{task['train']} / {task['validation']}" for task in found["tasks"].values()})
    note = (
        f"Mean of tasks; trained on / chosen by: {', '.join(splits[:3])}{' and others' * (len(splits) > 3)}; "
        f"chosen: {how}. "
        f"Differences to the best point{' of its arm' * compared}: {INTERVALS}"
    )
    return Table("Validation", ("point", "top-1", "±", *PAIRED, "chosen"), rows, note)


def _optimism(found: Mapping[str, Any], compared: bool) -> Table:
    rows = []
    for row in found["arms"]:
        for name, value in row["by_task"].items():
            rows.append([name, *_arm(row, compared), _number(value, ".1f", 100), ""])
        more = row["above_the_result"]["runs"]["mean"]
        rows.append(
            ["mean of tasks", *_arm(row, compared), _number(row["tasks"]["accuracy"], ".1f", 100), f"{100 * more:+.1f}"]
        )
    columns = ("task", *ARM[: len(ARM) * compared], "would have been claimed", "above the result")
    return Table("Picked by the test split: not a result", columns, rows, found["what"])


ARM = ("compared",)
PAIRED = ("difference", "95 %, task and seed", "95 %, tasks")


def _arm(row: Mapping[str, Any], compared: bool) -> list[str]:
    return [row["arm"]] if compared else []


def _number(value: float | None, form: str, scale: float = 1) -> str:
    return "" if value is None else f"{value * scale:{form}}"


def _spread(row: Mapping[str, Any]) -> list[str]:
    return [_number(row["accuracy"], ".1f", 100), _number(row["deviation"], ".1f", 100)]


def _paired(row: Mapping[str, Any]) -> list[str]:
    return [f"{100 * row['runs']['mean']:+.1f}", *(_interval(row[what]) for what in ("runs", "tasks"))]


def _interval(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
