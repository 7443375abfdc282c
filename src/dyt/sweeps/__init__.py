"""Benchmarks of many tasks, run and resumed as one."""

from dyt.sweeps.pool import Job, Outcome, sweep
from dyt.sweeps.report import Line, lines, totals, write_results
from dyt.sweeps.vtab1k import GROUPS, METHODS, TASKS, SweepError, Task, Vtab1k

__all__ = [
    "GROUPS",
    "METHODS",
    "TASKS",
    "Job",
    "Line",
    "Outcome",
    "SweepError",
    "Task",
    "Vtab1k",
    "lines",
    "sweep",
    "totals",
    "write_results",
]
