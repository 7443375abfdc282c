"""Means of whole groups only, beside the paper's, in three formats that say the same."""

import csv
import json
from pathlib import Path

import pytest

from dyt.sweeps import METHODS, TASKS, Outcome, Task, lines, totals, write_results
from dyt.train import Evaluation, Result

OURS = Task("ours", None, ("ours",))


def outcome(accuracy: float) -> Outcome:
    test = Evaluation(
        images=4,
        accuracy=accuracy,
        metrics={"accuracy_per_class": accuracy / 2},
        active_rate=0.5,
        active_rates={"blocks.0.mlp": 0.5},
        gmacs=0.75,
        gmacs_complete=1.0,
        gmacs_dense=0.875,
    )
    return Outcome(
        Result(
            test=test,
            asked_rate=0.5,
            training_rate=0.5,
            training_rates={"blocks.0.mlp": 0.5},
            calibrated_rate=None,
            trainable=2,
            trainable_without_head=1,
            epochs=1,
            seconds=60.0,
        )
    )


def test_the_mean_is_that_of_the_groups_means() -> None:
    """Tasks of a group of 7 at 0.7, of 4 at 0.4, of 8 at 0.1: 0.4, where the mean of the tasks would be 0.384."""
    value = {"natural": 0.7, "specialised": 0.4, "structured": 0.1}
    found = lines(
        [*TASKS, OURS], {task.name: outcome(value.get(str(task.group), 0.9)) for task in [*TASKS, OURS]}, [], "lora"
    )
    *groups, over = totals(found, "lora")
    assert [line.accuracy for line in groups] == pytest.approx([0.7, 0.4, 0.1])
    assert over.accuracy == pytest.approx(0.4)
    assert over.paper == METHODS["lora"].mean
    assert over.status == "19 of 19"
    assert over.minutes == pytest.approx(19)
    assert found[-1].paper is None


def test_a_group_with_a_gap_has_no_mean() -> None:
    done = {task.name: outcome(0.5) for task in TASKS if task.group != "natural"} | {"dtd": Outcome(error="no")}
    found = lines([task for task in TASKS if task.name != "pets"], done, [t for t in TASKS if t.name == "pets"], "full")
    status = {line.name: line.status for line in found}
    assert (status["dtd"], status["pets"], status["svhn"], status["dmlab"]) == (
        "failed",
        "missing",
        "waiting",
        "finished",
    )
    natural, special, structured, over = totals(found, "full")
    assert (natural.accuracy, special.accuracy, structured.accuracy, over.accuracy) == (None, 0.5, 0.5, None)
    assert natural.paper == pytest.approx(0.7589, abs=1e-4)
    assert (natural.status, over.status) == ("0 of 7", "12 of 19")


def test_per_class_only_where_it_is_the_custom() -> None:
    found = lines(TASKS, {task.name: outcome(0.5) for task in TASKS}, [], "full")
    assert [line.name for line in found if line.accuracy_per_class is not None] == ["caltech101", "flowers102", "pets"]


def test_three_formats(tmp_path: Path) -> None:
    found = lines([TASKS[1]], {"caltech101": outcome(0.625)}, [], "dyt_r0.5")
    markdown, comma, plain = write_results(tmp_path, found, "dyt_r0.5", "A title.")
    text = markdown.read_text()
    assert text.startswith("A title.\n\n| group | task |")
    assert "| natural | caltech101 | finished | 62.5 | 31.2 | 94.8 | 0.50 | 0.75 | 0.875 | 1.0 |" in text
    rows = json.loads(plain.read_text())["rows"]
    with comma.open() as file:
        read = list(csv.DictReader(file))
    assert len(rows) == len(read) == 5
    assert float(read[0]["accuracy"]) == rows[0]["accuracy"] == 0.625
    assert read[-1]["accuracy"] == ""
    assert rows[-1]["accuracy"] is None
