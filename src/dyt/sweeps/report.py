"""The table of a sweep: every task beside the paper's row, the groups' means, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from dyt.sweeps.pool import Outcome
from dyt.sweeps.vtab1k import GROUPS, TASKS, Method, Task, method
from dyt.train.state import write_whole


@dataclass(frozen=True)
class Line:
    """A task, a group, or all; accuracies and rates are fractions, None where there is none.

    Attributes:
        group: of the task; None for a task that is not of VTAB-1K, and for the mean over groups.
        name: of the task, or `mean`.
        status: finished, failed, missing or waiting; of a mean, how many tasks are finished of how many.
        accuracy: top-1, what VTAB-1K and the paper's table have; a group's is the mean over its tasks, the last line's
            that over the groups, both only when every task is there.
        accuracy_per_class: where it is the data set's own custom.
        paper: the paper's accuracy.
        active_rate, gmacs: at inference, mean over the test images; gmacs_dense: of the model without dispatchers and
            adapters.
        minutes: of training and testing.
    """

    group: str | None
    name: str
    status: str
    accuracy: float | None = None
    accuracy_per_class: float | None = None
    paper: float | None = None
    active_rate: float | None = None
    gmacs: float | None = None
    gmacs_dense: float | None = None
    minutes: float | None = None


def lines(tasks: Sequence[Task], outcomes: Mapping[str, Outcome], missing: Sequence[Task], beside: str) -> list[Line]:
    """A line for each task, those of VTAB-1K in the paper's order.

    Raises:
        SweepError: table 3 has no row `beside`.
    """
    row = method(beside)
    return [_line(task, outcomes.get(task.name), task in missing, row) for task in (*tasks, *missing)]


def _line(task: Task, outcome: Outcome | None, missing: bool, row: Method) -> Line:
    paper = row.accuracy.get(task.name) if task.group else None
    result = outcome.result if outcome else None
    if result is None:
        status = "missing" if missing else "waiting" if outcome is None else "failed"
        return Line(task.group, task.name, status, paper=paper)
    test = result.test
    return Line(
        task.group,
        task.name,
        "finished",
        test.accuracy,
        test.metrics["accuracy_per_class"] if task.per_class else None,
        paper,
        test.active_rate,
        test.gmacs,
        test.gmacs_dense,
        result.seconds / 60,
    )


def totals(task_lines: Sequence[Line], beside: str) -> list[Line]:
    """The groups' means and, last, the mean over the groups; empty cells where a task of VTAB-1K has no result."""
    row, means = method(beside), []
    by_name = {line.name: line for line in task_lines if line.group}
    for group in GROUPS:
        names = [task.name for task in TASKS if task.group == group]
        own = [by_name[name] for name in names if name in by_name and by_name[name].accuracy is not None]
        paper = fmean(row.accuracy[name] for name in names)
        means.append(_mean(group, own, len(names), paper))
    count = sum(line.accuracy is not None for line in by_name.values())
    whole = [mean for mean in means if mean.accuracy is not None]
    over = _mean(None, whole, len(GROUPS), row.mean)
    return [*means, Line(**{**asdict(over), "status": f"{count} of {len(TASKS)}"})]


def _mean(group: str | None, own: Sequence[Line], of: int, paper: float) -> Line:
    status = f"{len(own)} of {of}"
    if len(own) < of:
        return Line(group, "mean", status, paper=paper)

    def mean(field: str) -> float | None:
        values = [value for value in (getattr(line, field) for line in own) if value is not None]
        return fmean(values) if values else None

    return Line(
        group,
        "mean",
        status,
        mean("accuracy"),
        None,
        paper,
        mean("active_rate"),
        mean("gmacs"),
        mean("gmacs_dense"),
        sum(line.minutes or 0.0 for line in own),
    )


HEADER = ("group", "task", "status", "top-1", "per class", "paper", "active", "GMACs", "dense", "minutes")


def cells(line: Line) -> list[str]:
    """A line as it is shown."""

    def shown(value: float | None, form: str, scale: float = 1) -> str:
        return "" if value is None else f"{value * scale:{form}}"

    numbers = [shown(value, ".1f", 100) for value in (line.accuracy, line.accuracy_per_class, line.paper)]
    numbers += [
        shown(line.active_rate, ".2f"),
        shown(line.gmacs, ".4g"),
        shown(line.gmacs_dense, ".4g"),
        shown(line.minutes, ".1f"),
    ]
    return [line.group or "", line.name, line.status, *numbers]


def markdown(rows: Sequence[Line], title: str) -> str:
    """A table with a line of text above it."""
    rule = ["---", "---", "---", *["---:"] * (len(HEADER) - 3)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (HEADER, rule, *map(cells, rows)))
    return f"{title}\n\n{table}\n"


def comma_separated(rows: Sequence[Line]) -> str:
    """The lines with all digits, an empty cell for None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def write_results(out: Path, task_lines: Sequence[Line], beside: str, title: str) -> list[Path]:
    """Writes results.md, results.csv and results.json into a directory; each is whole at any moment."""
    rows = [*task_lines, *totals(task_lines, beside)]
    plain = {"title": title, "beside": beside, "rows": [asdict(row) for row in rows]}
    texts = {
        "results.md": markdown(rows, title),
        "results.csv": comma_separated(rows),
        "results.json": json.dumps(plain, indent=2) + "\n",
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_whole(out / name, text)
    return [out / name for name in texts]
