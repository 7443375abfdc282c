"""VTAB-1K: its 19 tasks in three groups, what table 3 of the paper has for them, and which of them lie on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from dyt.errors import DyTError, nearest
from dyt.tasks.layouts import LAYOUTS, found

GROUPS = ("natural", "specialised", "structured")


class SweepError(DyTError):
    """A sweep that cannot be begun as asked."""


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

_TABLE_3: Mapping[str, tuple[tuple[float, ...], float]] = {
    "full": (
        (
            68.9,
            87.7,
            64.3,
            97.2,
            86.9,
            87.4,
            38.8,
            79.7,
            95.7,
            84.2,
            73.9,
            56.3,
            58.6,
            41.7,
            65.5,
            57.5,
            46.7,
            25.7,
            29.1,
        ),
        68.96,
    ),
    "frozen": (
        (
            63.4,
            85.0,
            63.2,
            97.0,
            86.3,
            36.6,
            51.0,
            78.5,
            87.5,
            68.6,
            74.0,
            34.3,
            30.6,
            33.2,
            55.4,
            12.5,
            20.0,
            9.6,
            19.2,
        ),
        57.64,
    ),
    "adapter": (
        (
            69.2,
            90.1,
            68.0,
            98.8,
            89.9,
            82.8,
            54.3,
            84.0,
            94.9,
            81.9,
            75.5,
            80.9,
            65.3,
            48.6,
            78.3,
            74.8,
            48.5,
            29.9,
            41.6,
        ),
        73.85,
    ),
    "bitfit": (
        (
            72.8,
            87.0,
            59.2,
            97.5,
            85.3,
            59.9,
            51.4,
            78.7,
            91.6,
            72.9,
            69.8,
            61.5,
            55.6,
            32.4,
            55.9,
            66.6,
            40.0,
            15.7,
            25.1,
        ),
        65.21,
    ),
    "lora": (
        (
            67.1,
            91.4,
            69.4,
            98.8,
            90.4,
            85.3,
            54.0,
            84.9,
            95.3,
            84.4,
            73.6,
            82.9,
            69.2,
            49.8,
            78.5,
            75.7,
            47.1,
            31.0,
            44.0,
        ),
        74.6,
    ),
    "vpt": (
        (
            78.8,
            90.8,
            65.8,
            98.0,
            88.3,
            78.1,
            49.6,
            81.8,
            96.1,
            83.4,
            68.4,
            68.5,
            60.0,
            46.5,
            72.8,
            73.6,
            47.9,
            32.9,
            37.8,
        ),
        71.96,
    ),
    "ssf": (
        (
            69.0,
            92.6,
            75.1,
            99.4,
            91.8,
            90.2,
            52.9,
            87.4,
            95.9,
            87.4,
            75.5,
            75.9,
            62.3,
            53.3,
            80.6,
            77.3,
            54.9,
            29.5,
            37.9,
        ),
        75.69,
    ),
    "convpass": (
        (
            72.3,
            91.2,
            72.2,
            99.2,
            90.9,
            91.3,
            54.9,
            84.2,
            96.1,
            85.3,
            75.6,
            82.3,
            67.9,
            51.3,
            80.0,
            85.9,
            53.1,
            36.4,
            44.4,
        ),
        76.56,
    ),
    "adaptformer": (
        (
            70.8,
            91.2,
            70.5,
            99.1,
            90.9,
            86.6,
            54.8,
            83.0,
            95.8,
            84.4,
            76.3,
            81.9,
            64.3,
            49.3,
            80.3,
            76.3,
            45.7,
            31.7,
            41.1,
        ),
        74.75,
    ),
    "fact_tt": (
        (
            71.3,
            89.6,
            70.7,
            98.9,
            91.0,
            87.8,
            54.6,
            85.2,
            95.5,
            83.4,
            75.7,
            82.0,
            69.0,
            49.8,
            80.0,
            79.2,
            48.4,
            34.2,
            41.4,
        ),
        75.3,
    ),
    "res_tuning": (
        (
            75.2,
            92.7,
            71.9,
            99.3,
            91.9,
            86.7,
            58.5,
            86.7,
            95.6,
            85.0,
            74.6,
            80.2,
            63.6,
            50.6,
            80.2,
            85.4,
            55.7,
            31.9,
            42.0,
        ),
        76.32,
    ),
    "dyt_r0.5": (
        (
            73.6,
            94.8,
            73.0,
            99.1,
            91.4,
            87.0,
            56.4,
            87.3,
            96.1,
            85.6,
            76.7,
            82.8,
            63.8,
            52.7,
            83.7,
            83.6,
            57.3,
            34.6,
            44.3,
        ),
        77.14,
    ),
    "dyt_r0.7": (
        (
            74.4,
            95.5,
            73.6,
            99.2,
            91.7,
            87.5,
            57.4,
            88.3,
            96.1,
            86.7,
            76.7,
            83.5,
            63.8,
            52.9,
            83.1,
            85.7,
            54.9,
            34.3,
            45.9,
        ),
        77.57,
    ),
    "dyt_r0.9": (
        (
            74.3,
            94.9,
            73.1,
            99.2,
            91.4,
            87.8,
            57.1,
            87.9,
            96.1,
            85.9,
            76.0,
            83.3,
            64.8,
            51.5,
            83.4,
            84.0,
            54.8,
            35.1,
            46.4,
        ),
        77.3,
    ),
}
"""Per cent, as printed; the mean is that of the groups' means."""


@dataclass(frozen=True)
class Method:
    """A row of table 3: ViT-B/16 pretrained on ImageNet-21k, top-1 accuracy as a fraction.

    Attributes:
        accuracy: by task.
        mean: the printed mean of the three groups' means.
    """

    accuracy: Mapping[str, float]
    mean: float


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        name: Method(
            MappingProxyType({task.name: value / 100 for task, value in zip(TASKS, row, strict=True)}), mean / 100
        )
        for name, (row, mean) in _TABLE_3.items()
    }
)
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
        listed = {path.name for path in root.iterdir() if path.is_dir() and _whole(path)}
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
                f"none of the {len(tasks)} tasks is in '{root}', which has {found(root)}; expected folders such as "
                f"{tasks[0].folders[0]}/ with train800val200.txt and test.txt"
                + (f"; with lists there: {', '.join(others)} (--task runs them)" if others else "")
            )
        return Vtab1k(MappingProxyType(present), missing, others)


def _whole(folder: Path) -> bool:
    lists = LAYOUTS["vtab"]
    return all(lists.has(folder, name) for name in (*lists.train, *lists.test))
