"""What a run keeps of itself: its checkpoint, checked on the way in and out, its metrics, and the record of changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dyt.assembly.backbone import faults
from dyt.train import record
from dyt.train.length import Length
from dyt.train.resume import Header, NotFiniteError, State, broken, read_state, write_state
from dyt.train.spec import RunSpec
from dyt.train.state import CHECKPOINT, RECORD, RunDir, RunError, differences, listed, with_defaults
from dyt.train.surroundings import Surroundings


class Keeper:
    """Saves and restores one run on one process.

    Args:
        main: whether this is the process that writes.
        accept: go on with what has changed, and write it down.
        say: tells the user a line.
        infinite: keys of the model's tensors that had values from the first that are not finite.
    """

    def __init__(
        self,
        directory: RunDir,
        run: RunSpec,
        now: Surroundings,
        length: Length,
        infinite: frozenset[str],
        *,
        main: bool,
        accept: bool,
        say: Callable[[str], None],
    ) -> None:
        self.directory, self.run, self.now, self.length, self.infinite = directory, run, now, length, infinite
        self.main, self.accept, self.say = main, accept, say
        self.path, self.rows = directory / CHECKPOINT, list[dict[str, Any]]()
        self.last: int | None = None
        """The step of the state that is on the disk."""

    def add(self, row: dict[str, Any]) -> None:
        """Takes an epoch's row; the main process writes it."""
        self.rows.append(row)
        if self.main:
            self.directory.add_metrics(row)

    def save(
        self, step: int, tensors: Mapping[str, Tensor], sums: Tensor, optimizer: Any, scaler: Any, seconds: float
    ) -> None:
        """Writes the checkpoint.

        Args:
            sums: of the epoch so far, over all processes.
            optimizer: its state dict.
            scaler: the gradient scaler's state dict; None without one.

        Raises:
            RunError: values that are not finite, or a disk that cannot be written; with what is kept.
        """
        header = {
            "step": step,
            "steps": self.length.steps,
            "per_epoch": self.length.per_epoch,
            "run": self.run.model_dump(mode="json"),
            "surroundings": self.now,
            "rows": tuple(self.rows),
            "seconds": seconds,
        }
        try:
            write_state(self.path, header, tensors, sums, optimizer, scaler, self.infinite)
        except RunError as error:
            also = f"; {self.remedy()}" if isinstance(error, NotFiniteError) else ""
            raise RunError(f"{error}; {self.kept()}{also}") from error
        self.last = step

    def kept(self) -> str:
        """What is on the disk, in words."""
        if self.last is None:
            return "no state of this run has been saved yet"
        return f"the state after step {self.last} of {self.length.steps} is kept in '{self.path}'"

    def remedy(self) -> str:
        """What to do about values that are not finite."""
        on = ", and give --accept-changes to go on from there, or --fresh to start anew" if self.last else ""
        return f"lower train.lr, or set train.clip=1 or train.precision=no{on}"

    def restored(self, wanted: Mapping[str, Tensor], sums: Tensor, optimizer: Optimizer) -> State | None:
        """The checkpoint, where there is one and it is this run's; the main process then writes what is told of it.

        Args:
            wanted: the model's tensors by stored key.
            sums: as they are at the beginning.
            optimizer: as it is at the beginning; given the state.

        Raises:
            RunError: what is damaged, contradicts itself, or has changed without being accepted. Nothing was written.
        """
        if not self.path.is_file():
            if self.main:
                self.directory.put_metrics(())
                record.begin(self.directory / RECORD, self.now)
            return None
        state = read_state(self.path, self.infinite)
        header = state.header
        respecified = differences(with_defaults(header.run), self.run.model_dump(mode="json"))
        refused, told = header.surroundings.changes(self.now)
        refused = respecified + refused
        if refused and not self.accept:
            raise RunError(
                f"'{self.directory.path}' was begun otherwise: {listed(refused)}; put that back, or give "
                f"--accept-changes to go on all the same, which is written into {RECORD}, or --fresh to start anew"
            )
        wrong = (
            _length_fault(header, self.length, bool(respecified))
            or _tensor_fault(wanted, state.tensors)
            or _sums_fault(header, state.sums, sums)
            or _other_optimizer(header, self.run)
            or _optimizer_fault(state.optimizer, optimizer, bool(respecified))
        )
        if wrong is not None:
            raise broken(self.path, wrong)
        _load(optimizer, state, self.path)
        self.rows = [dict(row) for row in header.rows]
        self.last = header.step
        if self.main:
            self.directory.check_metrics(self.rows)
            record.go_on(self.directory / RECORD, header.surroundings, header.step, refused, told)
            self.directory.put_metrics(self.rows)
            if respecified:
                self.directory.become(self.run)
        for line in (*refused, *told):
            self.say(f"changed since the run was begun: {line}")
        return state


def _length_fault(header: Header, length: Length, changed: bool) -> str | None:
    """Why step, epochs and rows are not those of this run, whose spec may have changed."""
    if header.per_epoch != length.per_epoch:
        return f"has epochs of {header.per_epoch} steps, this run of {length.per_epoch}: train.batch_size or the data"
    if header.step > min(length.steps, header.steps) or (header.steps != length.steps and not changed):
        return f"is at step {header.step} of {header.steps}, the run has {length.steps}"
    ends = [(row["epoch"], row["step"]) for row in header.rows]
    if ends != [(k, k * length.per_epoch) for k in range(1, header.step // length.per_epoch + 1)]:
        return f"has rows of metrics that are not those of {header.step} steps, {length.per_epoch} an epoch"
    return None


def _tensor_fault(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    other = [key for key in wanted.keys() & given.keys() if wanted[key].dtype != given[key].dtype]
    wrong = faults(wanted, given) or (f"of another dtype ({min(other)})" if other else "")
    return f"does not fit the model of this run: tensors {wrong[:200]}" if wrong else None


def _sums_fault(header: Header, given: Tensor, wanted: Tensor) -> str | None:
    """Why the epoch's sums are not those of the steps that are done of it: they begin with the number of passes."""
    if given.shape != wanted.shape or not given.is_floating_point():
        return "does not fit this run: sums of another kind"
    within = header.per_epoch if header.step == header.steps else header.step % header.per_epoch
    train = header.run.get("train")
    parts = train.get("accumulate") if isinstance(train, dict) else None
    if not isinstance(parts, int) or float(given[0]) != within * parts * header.surroundings.world:
        return f"contradicts itself: its sums are not those of {within} steps of an epoch"
    return None


def _other_optimizer(header: Header, run: RunSpec) -> str | None:
    train = header.run.get("train")
    found = train.get("optimizer") if isinstance(train, dict) else None
    if found == run.train.optimizer:
        return None
    return f"has the state of the optimizer {str(found)[:40]}, this run is of {run.train.optimizer}"


def _optimizer_fault(saved: Mapping[str, Any], live: Optimizer, changed: bool) -> str | None:
    """Why a state dict is not one of this optimiser; where the run's spec has changed, settings may differ."""
    groups, own = saved.get("param_groups"), live.state_dict()["param_groups"]
    state = saved.get("state")
    if not isinstance(groups, list) or not isinstance(state, dict) or len(groups) != len(own):
        return "does not fit the optimizer of this run"
    for number, (group, mine) in enumerate(zip(groups, own, strict=True)):
        if not isinstance(group, dict) or group.get("params") != mine["params"]:
            return f"does not fit the optimizer of this run: group {number}"
        other = [key for key in mine if key not in group or (key != "lr" and group[key] != mine[key])]
        if other and not changed:
            return f"does not fit the optimizer of this run: {other[0]} of group {number}"
    known = {index for group in own for index in group["params"]}
    if not state.keys() <= known or not all(isinstance(each, dict) for each in state.values()):
        return "does not fit the optimizer of this run: its parameters"
    return None


def _load(optimizer: Optimizer, state: State, path: Any) -> None:
    """Gives the optimiser its state; its settings stay those of the spec, which may have changed."""
    settings = [{k: copy.deepcopy(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    try:
        optimizer.load_state_dict(dict(state.optimizer))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise broken(path, f"does not fit the optimizer of this run ({' '.join(str(error).split())[:120]})") from error
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def infinite_keys(tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """Keys of tensors with values that are not finite."""
    return frozenset(k for k, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all())
