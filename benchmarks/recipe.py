"""How the default recipe was chosen: many short runs at once, on validation splits, or a few on the test split.

    python benchmarks/recipe.py DATA --weights FILE --out runs/recipe --processes 16        # the table of all rows
    python benchmarks/recipe.py DATA --weights FILE --out runs/recipe --test --rows recipe static --seeds 0 1 2

DATA has a folder for each task in the VTAB-1K list format (train800, val200, and with --test train800val200 and test).
Without --test a run is trained on 800 of a task's 1,000 training images and scored on the other 200, drawn anew for
each seed and alike for all rows; no test list is opened. After training each file is scored at several rates, its
thresholds set on training images. A run that is in the results already is not run again; --minutes leaves the rest for
another call.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import dyt
from dyt.config.spec import parse
from dyt.core.route import activation_rate
from dyt.inference.thresholds import calibrate_thresholds
from dyt.train import fit, recipe
from dyt.train.named_runs import changed, with_preset
from dyt.train.saved import open_saved
from dyt.train.spec import RunSpec

BACKBONE = "vit_tiny_patch16_224"
RATES = (0.3, 0.4, 0.5, 0.7, 1.0)
WHOLE, CALIBRATION = 1000, 256  # training images of a task, and those that set thresholds


def held(start: float) -> tuple[str, ...]:
    """The features term from `start` down to a tenth of it, towards the pretrained backbone's."""
    ramp = f"{{start: {start}, end: {start / 10}, begin: 0.2, until: 0.6, shape: exponential}}"
    return "model.objective.teacher=pretrained", f"model.objective.features={ramp}"


BATCH_64 = ("train.batch_size=64", "train.stand_in_lr_scale=1")
STATIC, ONE_RATE = "static_adapter_vtab", "recipe one_rate"
ROWS: Mapping[str, tuple[str | None, tuple[str, ...]]] = {
    "recipe": (None, ()),
    "recipe, features 1": (None, held(1)),
    "recipe, features 1, batch 16": (None, (*held(1), "train.batch_size=16")),
    "recipe, features 1, stand-ins of 32": (None, (*held(1), "model.stand_in.dim=32")),
    "recipe, features 1, adapters x 3": (None, (*held(1), "train.adapter_lr_scale=3")),
    "recipe, adapters x 3": (None, ("train.adapter_lr_scale=3",)),
    "recipe, stand-ins x 1": (None, ("train.stand_in_lr_scale=1",)),
    "batch 64": (None, BATCH_64),
    "batch 64, features 1": (None, (*BATCH_64, *held(1))),
    "batch 64, features 5": (None, (*BATCH_64, *held(5))),
    "batch 64, features 20": (None, (*BATCH_64, *held(20))),
    "batch 64, features 1, stand-ins x 8": (None, (*held(1), "train.batch_size=64", "train.stand_in_lr_scale=8")),
    "batch 64, features 1, stand-ins of 32": (None, (*BATCH_64, *held(1), "model.stand_in.dim=32")),
    "batch 64, features 1, adapters x 3": (None, (*BATCH_64, *held(1), "train.adapter_lr_scale=3")),
    ONE_RATE: (None, ()),
    "static": (STATIC, ()),
    "static, adapters x 3": (STATIC, ("train.adapter_lr_scale=3",)),
    "static, batch 64": (STATIC, ("train.batch_size=64",)),
    "static, adapters x 1, batch 64": (STATIC, ("train.batch_size=64", "train.adapter_lr_scale=1")),
    **{f"fixed at {rate}": (None, ("model.objective.spread=null", f"model.objective.rate={rate}")) for rate in RATES},
}
"""By name, the preset that takes the model's place, and what is changed of the default recipe (of another: `ONE_RATE`)."""


@dataclass(frozen=True)
class Trial:
    """One run of a row."""

    row: str
    task: str
    seed: int
    test: bool

    @property
    def key(self) -> str:
        """Of its line and its folder."""
        return f"{self.row}, {self.task}, {self.seed}{', test' if self.test else ''}"


def lists(data: Path, trial: Trial, out: Path) -> Path:
    """The folder of the trial's lists: the task's own, or one whose `test` is a part of its training images."""
    root = data / trial.task
    if trial.test:
        return root
    lines = [line for name in ("train800", "val200") for line in (root / f"{name}.txt").read_text().splitlines()]
    random.Random(WHOLE + trial.seed).shuffle(lines)
    to = out / "lists" / trial.key
    to.mkdir(parents=True, exist_ok=True)
    for name, part in (("test", lines[:200]), ("train800val200", lines[200:])):
        (to / f"{name}.txt").write_text("".join(f"{root.resolve()}/{line}\n" for line in part))
    (to / "classes.txt").write_text((root / "classes.txt").read_text())
    return to


def run_of(trial: Trial, root: Path, weights: Path, changes: Sequence[str]) -> RunSpec:
    """The trial's run, with further changes for all of them."""
    preset, own = ROWS[trial.row]
    plain = recipe("one_rate" if trial.row == ONE_RATE else "default")
    plain = plain if preset is None else with_preset(plain, preset)
    given = [f"model.backbone.name={BACKBONE}", f"model.backbone.weights={weights}", f"data.root={root}"]
    given += ["data.workers=0", "train.budgets=false", f"train.seed={trial.seed}"]
    return parse(RunSpec, changed(plain, [*given, *own, *changes], ours=True))


@torch.inference_mode()
def dial(folder: Path) -> Iterator[tuple[float, float, float]]:
    """Rate asked, accuracy and active rate of a finished run's file on its test list."""
    saved = open_saved(folder / "model.safetensors", trust_paths=True)
    model, spec = saved.model.to("cuda" if torch.cuda.is_available() else "cpu"), saved.spec(None, 0)
    batches = list(itertools.islice(saved.calibration(spec, 64), CALIBRATION // 64))
    split = saved.split(spec, None)
    images = list(saved.batches(spec, split, range(len(split))))
    for rate in RATES:
        calibrate_thresholds(model, batches, rate)
        right, active, total = 0, 0.0, 0.0
        for x, y in images:
            with dyt.record(model) as routes:
                right += int((model(x).argmax(1) == y).sum())
            some, of = activation_rate(routes)
            active, total = active + float(some), total + float(of)
        yield rate, right / len(split), active / total


def done(trial: Trial, data: Path, weights: Path, out: Path, changes: Sequence[str]) -> dict[str, Any]:
    """Runs a trial, or goes on with it; its line."""
    begun, folder = time.monotonic(), out / "runs" / trial.key
    run = run_of(trial, lists(data, trial, out), weights, changes)
    result = fit(run, folder, progress=False)
    line = asdict(trial) | {"accuracy": result.test.accuracy, "active": result.test.active_rate}
    if ROWS[trial.row][0] is None:
        line["dial"] = {str(rate): [accuracy, active] for rate, accuracy, active in dial(folder)}
    return line | {"seconds": round(time.monotonic() - begun, 1), "machine": machine()}


def machine() -> str:
    """What the run was made on."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return f"{name}, torch {torch.__version__}"


def prepare() -> None:
    """Of each process: one thread, and TF32 where there is a GPU."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def table(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Markdown: for each row the mean over tasks of the mean over seeds."""
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    heads = ["row", "runs", *(f"at {rate}" for rate in RATES), *(f"{task}, at its rate" for task in tasks)]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for row in dict.fromkeys(line["row"] for line in lines):
        mine = [line for line in lines if line["row"] == row]
        by_task = {task: [line for line in mine if line["task"] == task] for task in tasks}
        by_task = {task: found for task, found in by_task.items() if found}
        cells = []
        for rate in map(str, RATES):
            have = [[line["dial"][rate][0] for line in found if "dial" in line] for found in by_task.values()]
            cells.append(percent(statistics.mean(map(statistics.mean, have))) if all(have) else "")
        own = [percent(statistics.mean(x["accuracy"] for x in by_task[t])) if t in by_task else "" for t in tasks]
        yield f"| {row} | {len(mine)} | {' | '.join(cells)} | {' | '.join(own)} |"


def percent(share: float) -> str:
    """`87.5`."""
    return f"{share:.1%}".removesuffix("%")


def main() -> None:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help=f"of timm's {BACKBONE}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["caltech101", "gtsrb", "rsscn7"])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--test", action="store_true", help="train on all training images, and score on the test list")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument(
        "--set", nargs="+", default=[], dest="changes", help="changes of all runs, such as train.epochs=1"
    )
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / ("test.jsonl" if options.test else "validation.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    have = {Trial(*(line[name] for name in ("row", "task", "seed", "test"))) for line in lines}
    order = [
        Trial(row, task, seed, options.test) for seed in options.seeds for row in options.rows for task in options.tasks
    ]
    waiting = [trial for trial in order if trial not in have]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    longest, running = 0.0, []
    with multiprocessing.get_context("spawn").Pool(options.processes, prepare) as pool:
        while running or (waiting and time.monotonic() + longest < end):
            while waiting and len(running) < options.processes and time.monotonic() + longest < end:
                given = (waiting.pop(0), options.data, options.weights, options.out, options.changes)
                running.append(pool.apply_async(done, given))
            for each in [each for each in running if each.ready()]:
                running.remove(each)
                lines.append(line := each.get())
                longest = max(longest, line["seconds"])
                with file.open("a", encoding="utf-8") as to:
                    to.write(json.dumps(line) + "\n")
            time.sleep(0.05)
    print(f"{len(lines)} runs, {len(waiting)} left", *dict.fromkeys(line["machine"] for line in lines), sep="\n")
    print("\n".join(table(lines)))


if __name__ == "__main__":
    main()
