"""Benchmarks of many tasks and grids that are chosen from by validation, run and resumed as one."""

from dyt.sweeps.grid import Axis, Point, points
from dyt.sweeps.pool import Job, Outcome, sweep
from dyt.sweeps.report import Line, lines, totals, write_results
from dyt.sweeps.search import Found, Search, run_search
from dyt.sweeps.search_results import evidence
from dyt.sweeps.statistics import Difference, Paired, Spread
from dyt.sweeps.validation import Splits, splits_of
from dyt.sweeps.vtab1k import GROUPS, METHODS, TASKS, SweepError, Task, Vtab1k, tasks_in

__all__ = [
    "GROUPS",
    "METHODS",
    "TASKS",
    "Axis",
    "Difference",
    "Found",
    "Job",
    "Line",
    "Outcome",
    "Paired",
    "Point",
    "Search",
    "Splits",
    "Spread",
    "SweepError",
    "Task",
    "Vtab1k",
    "evidence",
    "lines",
    "points",
    "run_search",
    "splits_of",
    "sweep",
    "tasks_in",
    "totals",
    "write_results",
]
