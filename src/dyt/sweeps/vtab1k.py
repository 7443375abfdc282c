"""VTAB-1K: its 19 tasks in three groups, what table 3 of the paper has for them, and which of them lie on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from dyt.errors import DyTError, nearest
from dyt.paper.data import columns
from dyt.tasks.layouts import LAYOUTS, contents_of

GROUPS = ("natural", "specialised", "structured")


class SweepError(DyTError):
    """A sweep that cannot be begun with these options."""


@dataclass(frozen=True)
class Task:
    """A task of the benchmark.

    Attributes:
        name: as the paper's table has it.
        group: one of `GROUPS`; None for a task that is not of VTAB-1K.
        folders: what its folder is called: in the public lists, or as `name`.
        per_class: its data set's own custom is the mean over classes (VTAB-1K itself counts images).
    """

    name: str
    group: str | None
    folders: tuple[str, ...]
    per_class: bool = False


def _task(name: str, group: int, folder: str | None = None, per_class: bool = False) -> Task:
    return Task(name, GROUPS[group], (name,) if folder is None else (folder, name), per_class)


TASKS: tuple[Task, ...] = (
    _task("cifar100", 0, "cifar"),
    _task("caltech101", 0, per_class=True),
    _task("dtd", 0),
    _task("flowers102", 0, "oxford_flowers102", per_class=True),
    _task("pets", 0, "oxford_iiit_pet", per_class=True),
    _task("svhn", 0),
    _task("sun397", 0),
    _task("camelyon", 1, "patch_camelyon"),
    _task("eurosat", 1),
    _task("resisc45", 1),
    _task("retinopathy", 1, "diabetic_retinopathy"),
    _task("clevr_count", 2),
    _task("clevr_dist", 2),
    _task("dmlab", 2),
    _task("kitti_dist", 2, "kitti"),
    _task("dspr_loc", 2, "dsprites_loc"),
    _task("dspr_ori", 2, "dsprites_ori"),
    _task("snorb_azim", 2, "smallnorb_azi"),
    _task("snorb_elev", 2, "smallnorb_ele"),
)
"""In the order of table 3."""


@dataclass(frozen=True)
class Method:
    """A row of table 3: ViT-B/16 pretrained on ImageNet-21k, top-1 accuracy as a fraction.

    Attributes:
        accuracy: by task.
        mean: the printed mean of the three groups' means.
    """

    accuracy: Mapping[str, float]
    mean: float


def _methods() -> Mapping[str, Method]:
    return MappingProxyType(
        {
            row["method"]: Method(
                MappingProxyType({task.name: float(row[task.name]) / 100 for task in TASKS}), float(row["mean"]) / 100
            )
            for row in columns("vtab1k.csv")
        }
    )


METHODS: Mapping[str, Method] = _methods()
"""The rows of the paper's table 3 (arXiv:2403.11808v2) by name."""


def method(name: str) -> Method:
    """A row of table 3.

    Raises:
        SweepError: an unknown name, with the nearest one and the list.
    """
    if name not in METHODS:
        raise SweepError(f"table 3 has no row '{name}'; {nearest(name, METHODS)}")
    return METHODS[name]


@dataclass(frozen=True)
class Vtab1k:
    """What of the benchmark lies in a folder.

    Attributes:
        present: the chosen tasks that are there, with their folders.
        missing: those that are not.
        others: folders with lists that are no task of VTAB-1K and were not chosen.
    """

    present: Mapping[Task, Path]
    missing: tuple[Task, ...]
    others: tuple[str, ...]

    @staticmethod
    def open(root: Path, chosen: Sequence[str] = (), whole: bool = False) -> Vtab1k:
        """Looks for root/<task>/ with the standard lists, train800val200.txt and test.txt.

        Args:
            chosen: names of tasks or of their folders; any folder with lists may be named. Empty for all 19.
            whole: refuse when a chosen task is missing.

        Raises:
            SweepError: no such folder, no task in it, a task in two folders, or an unknown name.
        """
        if not root.is_dir():
            raise SweepError(f"--root: no directory '{root}'")
        listed = {path.name for path in root.iterdir() if path.is_dir() and has_lists(path)}
        known = {folder: task for task in TASKS for folder in task.folders}
        known |= {name: Task(name, None, (name,)) for name in sorted(listed) if name not in known}
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise SweepError(f"no task '{unknown[0]}' in VTAB-1K or in '{root}'; {nearest(unknown[0], known)}")
        tasks = list(dict.fromkeys(known[name] for name in chosen)) or list(TASKS)
        tasks.sort(key=lambda task: TASKS.index(task) if task in TASKS else len(TASKS))
        present: dict[Task, Path] = {}
        for task in tasks:
            here = [name for name in task.folders if name in listed]
            if len(here) > 1:
                raise SweepError(f"'{root}' has {task.name} twice, as {' and '.join(here)}; move one away")
            if here:
                present[task] = root / here[0]
        missing = tuple(task for task in tasks if task not in present)
        if missing and whole:
            names = ", ".join(task.folders[0] for task in missing)
            raise SweepError(f"'{root}' lacks {len(missing)} of {len(tasks)} tasks: {names}")
        others = tuple(sorted(name for name in listed if known[name].group is None and known[name] not in tasks))
        if not present:
            raise SweepError(
                f"none of the {len(tasks)} tasks is in '{root}', which has {contents_of(root)}; expected folders "
                f"such as {tasks[0].folders[0]}/ with train800val200.txt and test.txt"
                + (f"; with lists there: {', '.join(others)} (--task runs them)" if others else "")
            )
        return Vtab1k(MappingProxyType(present), missing, others)


def tasks_in(root: Path, chosen: Sequence[str] = ()) -> dict[Task, Path]:
    """Every folder of root with such lists, by the names of VTAB-1K where it has one; or root itself, one data set.

    Args:
        chosen: names of tasks or of their folders; empty for all.

    Raises:
        SweepError: no such folder, a task in two folders, or an unknown name.
    """
    listed = sorted(path.name for path in root.iterdir() if path.is_dir() and has_lists(path)) if root.is_dir() else []
    if listed:
        return dict(Vtab1k.open(root, chosen or listed).present)
    if chosen:
        raise SweepError(
            f"--task {chosen[0]}: '{root}' has {contents_of(root)}, no folder with train800val200.txt and test.txt; "
            f"leave --task out for one data set"
        )
    name = root.resolve().name
    known = next((task for task in TASKS if name in task.folders), None)
    return {known or Task(name, None, (name,)): root}


def has_lists(folder: Path) -> bool:
    """Whether a folder has both standard lists."""
    lists = LAYOUTS["vtab"]
    return all(lists.has(folder, name) for name in (*lists.train, *lists.test))
