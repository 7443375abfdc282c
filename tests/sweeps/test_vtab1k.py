"""The tasks, the paper's facts, and what of the benchmark lies in a folder."""

import json
from pathlib import Path
from statistics import fmean

import pytest

from dyt.sweeps import GROUPS, METHODS, TASKS, SweepError, Vtab1k
from dyt.sweeps.vtab1k import method

from .conftest import lists


def test_nineteen_tasks_in_three_groups() -> None:
    assert [sum(task.group == group for task in TASKS) for group in GROUPS] == [7, 4, 8]
    folders = [folder for task in TASKS for folder in task.folders]
    assert len(folders) == len(set(folders))


@pytest.mark.parametrize("name", METHODS)
def test_the_printed_mean_is_that_of_the_groups(name: str) -> None:
    """Within what rounding to one digit leaves: no printed row has a slip of ours in it."""
    row = METHODS[name]
    means = [fmean(row.accuracy[task.name] for task in TASKS if task.group == group) for group in GROUPS]
    assert fmean(means) == pytest.approx(row.mean, abs=0.0005)


def test_the_facts_are_those_of_the_paper() -> None:
    file = next((p / "shared/paper/tables.json" for p in Path(__file__).parents if (p / "shared/paper").is_dir()), None)
    if file is None:
        pytest.skip("no copy of the paper's tables beside the checkout")
    table = json.loads(file.read_text())["table3_vtab1k"]
    assert table["columns"][:19] == [task.name for task in TASKS]
    assert set(table["rows"]) == set(METHODS)
    for name, row in table["rows"].items():
        assert [round(100 * METHODS[name].accuracy[task.name], 1) for task in TASKS] == row[:19]
        assert round(100 * METHODS[name].mean, 2) == row[19]


def test_an_unknown_row_names_the_nearest() -> None:
    with pytest.raises(SweepError, match=r"did you mean 'dyt_r0\.5'"):
        method("dyt_r05")


def test_what_is_there(root: Path) -> None:
    found = Vtab1k.open(root)
    assert [(task.name, folder.name) for task, folder in found.present.items()] == [
        ("caltech101", "caltech101"),
        ("flowers102", "oxford_flowers102"),
    ]
    assert len(found.missing) == 17
    assert found.others == ("ours",)


def test_chosen_tasks_by_either_name_in_the_papers_order(root: Path) -> None:
    found = Vtab1k.open(root, ["ours", "flowers102", "oxford_flowers102", "caltech101"])
    assert [task.name for task in found.present] == ["caltech101", "flowers102", "ours"]
    assert [task.group for task in found.present] == ["natural", "natural", None]
    assert (found.missing, found.others) == ((), ())


def test_refusals_name_what_is_there(root: Path) -> None:
    with pytest.raises(SweepError, match="lacks 17 of 19 tasks: cifar, dtd"):
        Vtab1k.open(root, whole=True)
    with pytest.raises(SweepError, match=r"no task 'caltech'.*did you mean 'caltech101'"):
        Vtab1k.open(root, ["caltech"])
    with pytest.raises(SweepError, match="no directory"):
        Vtab1k.open(root / "none")
    lists(root / "flowers102")
    with pytest.raises(SweepError, match="flowers102 twice, as oxford_flowers102 and flowers102"):
        Vtab1k.open(root)
    with pytest.raises(SweepError, match=r"none of the 1 tasks is in .*ours \(--task runs them\)"):
        Vtab1k.open(root, ["dtd"])


def test_a_folder_without_both_lists_is_missing(root: Path) -> None:
    (root / "caltech101/test.txt").unlink()
    assert [task.name for task in Vtab1k.open(root).present] == ["flowers102"]
