"""Accuracy against what is computed and how long it takes, of many methods at many strengths, in stages.

DyT as one file that is dialled to any rate (the default recipe) and as a model for each rate (without its spread), the
static adapter, the same with ToMe's and EViT's reduction put in afterwards and trained with it, DynamicViT, and a
linear probe. Every stage does what the folder lacks, so that an interrupted one goes on, and each may run on a machine
of its own:

    python benchmarks/pareto.py out --data vtab --weights W.safetensors --train --device cuda --minutes 8
    python benchmarks/pareto.py out --data vtab --weights W.safetensors --eval --device cuda
    python benchmarks/pareto.py out --data vtab --weights W.safetensors --time --threads 1
    python benchmarks/pareto.py out --report

Runs lie in out/runs/TASK/seedN/NAME with their models, which hold what was trained alone; figures are lines of
out/pareto.jsonl. `--report` writes out/report.md and out/TASK.png. Times are those of the first seed's models,
optimised by `dyt.optimize`, over the dense model's, in paired turns in one process. Everything is trained for as long
and with the same learning rates; nothing is chosen here. To look without the test split: `--train-split train800
--split val200`.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

import dyt
from dyt.errors import DyTError
from dyt.measure.plots.style import save_figure
from dyt.tasks.kinds import TASKS
from dyt.train import fit
from dyt.train.evaluation import evaluate
from dyt.train.saved import Saved, open_saved
from dyt.train.state import MODEL, RESULT, differences
from dyt.writing import write_text
from pareto_parts.figures import picture, rows, table
from pareto_parts.methods import METHODS, SMALL, Contender, Strengths, Training, plan
from pareto_parts.timing import quickened, turns

LINES, REPORT, SETTINGS = "pareto.jsonl", "report.md", "settings"


def finished(file: Path) -> dict[str, Any]:
    """The results by key. An incomplete last line of the file is cut off."""
    if not file.exists():
        return {}
    text = file.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole != len(text):
        with file.open("r+b") as cut:
            cut.truncate(whole)
    return {line["key"]: line["result"] for line in map(json.loads, text[:whole].splitlines())}


def write(options: argparse.Namespace, key: str, result: Any) -> None:
    """Appends a line, and prints it."""
    name = torch.cuda.get_device_name() if options.device == "cuda" else f"cpu ({platform.machine()})"
    where = f"{name}, torch {torch.__version__}, timm {timm.__version__}, {torch.get_num_threads()} threads"
    with (options.out / LINES).open("a", encoding="utf-8") as out:
        out.write(json.dumps({"key": key, "result": result, "machine": where}) + "\n")
    print(f"{key}: {json.dumps(result)[:300]}", flush=True)


def claim(options: argparse.Namespace) -> None:
    """Writes with which settings the folder is filled.

    Raises:
        DyTError: it was with others.
    """
    names = ("backbone", "patch", "size", "epochs", "train_split", "split", "set", "small")
    now = {name: getattr(options, name) for name in names}
    before = finished(options.out / LINES).get(SETTINGS)
    if before is None:
        write(options, SETTINGS, now)
    elif changes := differences(before, now):
        raise DyTError(f"'{options.out}' is of other settings: {'; '.join(changes)[:300]}; give another folder")


def planned(options: argparse.Namespace) -> tuple[dict[str, Training], list[Contender]]:
    """What `--only` asks for, and the trainings that it needs."""
    side = options.size // (SMALL["patch_size"] if options.small else options.patch)
    trainings, found = plan(options.strengths, side * side)
    wanted = [one for one in found if one.method in {METHODS[name] for name in options.only}]
    return {name: trainings[name] for name in dict.fromkeys(one.training for one in wanted)}, wanted


def folder(options: argparse.Namespace, task: str, seed: int, training: str) -> Path:
    """Of a run."""
    return Path(options.out / "runs" / task / f"seed{seed}" / training)


def trained(options: argparse.Namespace) -> int:
    """Trains what the folder lacks; how many failed."""
    end, failed = time.monotonic() + options.minutes * 60, 0
    args = dict(SMALL) if options.small else {"img_size": options.size}
    weights = "none" if options.small else str(options.weights)
    changes = [f"train.epochs={options.epochs}", *(["train.batch_size=8"] if options.small else []), *options.set]
    for seed in options.seeds:
        for task in options.tasks:
            for training in planned(options)[0].values():
                out = folder(options, task, seed, training.name)
                if (out / RESULT).is_file() and (out / MODEL).is_file():
                    continue
                if time.monotonic() > end:
                    print(f"{out}: left for another call, {options.minutes:g} minutes are over", flush=True)
                    continue
                data = {"root": str(options.data / task), "format": "vtab", "size": options.size}
                data |= {"train": options.train_split, "test": options.split}
                backbone = {"name": options.backbone, "weights": weights, "args": args}
                try:
                    result = fit(training.run(data, backbone, seed, changes), out, progress=options.progress)
                except DyTError as error:
                    print(f"{out} FAILED: {error}", file=sys.stderr, flush=True)
                    failed += 1
                    continue
                print(f"{out}: {result.test.accuracy or 0:.1%} in {result.seconds:.0f} s", flush=True)
    return failed


def opened(options: argparse.Namespace, task: str, seed: int, training: str) -> Saved | None:
    """The model of a run, on the device; None where it has not been trained."""
    file = folder(options, task, seed, training) / MODEL
    if not file.is_file():
        print(f"{file}: not trained yet", file=sys.stderr, flush=True)
        return None
    saved = open_saved(file, weights=None if options.small else str(options.weights))
    device = torch.device(options.device)
    return replace(saved, model=saved.model.to(device), device=device)


def batches(options: argparse.Namespace, saved: Saved, task: str, count: int | None = None) -> Iterator[Any]:
    """(images, labels) of the split, all or so many of the first."""
    spec = saved.spec(str(options.data / task))
    split = saved.split(spec, options.split)
    return saved.batches(spec, split, range(len(split) if count is None else min(count, len(split))))


def evaluated(options: argparse.Namespace) -> None:
    """Evaluates what the file lacks."""
    have = finished(options.out / LINES)
    for task in options.tasks:
        for seed in options.seeds:
            keys = {one: f"eval: {task}: {one.name}: seed {seed}" for one in planned(options)[1]}
            for training in dict.fromkeys(one.training for one, key in keys.items() if key not in have):
                saved = opened(options, task, seed, training)
                for one in [one for one, key in keys.items() if one.training == training and key not in have]:
                    if saved is None:
                        break
                    model = one.of(copy.deepcopy(saved.model))
                    found = evaluate(
                        model, batches(options, saved, task), task=TASKS["classification"], classes=saved.names
                    )
                    result = {
                        "method": one.method,
                        "label": one.label,
                        "images": found.images,
                        "accuracy": found.accuracy,
                        "active_rate": found.active_rate,
                        "gmacs": found.gmacs,
                        "gmacs_dense": found.gmacs_dense,
                    }
                    write(options, keys[one], result)


def timed(options: argparse.Namespace) -> None:
    """Times what the file lacks, each method beside the dense model; the models are those of the first seed."""
    have = finished(options.out / LINES)
    for task in options.tasks:
        for method in dict.fromkeys(one.method for one in planned(options)[1]):
            keys = {batch: f"time: {task}: {method}: batch {batch}" for batch in options.batches}
            if all(key in have for key in keys.values()):
                continue
            loaded = {
                one: opened(options, task, options.seeds[0], one.training)
                for one in planned(options)[1]
                if one.method == method
            }
            there = {one: saved for one, saved in loaded.items() if saved is not None}
            if len(there) < len(loaded):
                continue  # it would be left out for good
            first = next(iter(there.values()))
            images = torch.cat([each for each, _ in batches(options, first, task, options.images)])
            dense = dyt.unwrap(copy.deepcopy(first.model)).eval()
            models = {one: quickened(one.of(saved.model), one.budget) for one, saved in there.items()}
            for batch, key in keys.items():
                if key not in have:
                    write(
                        options, key, {"batch": batch, "rows": turns(dense, models, images.split(batch), options.pairs)}
                    )


def reported(options: argparse.Namespace) -> None:
    """Writes the tables, and a picture for each task."""
    lines, text = finished(options.out / LINES), list[str]()
    tasks = dict.fromkeys(key.split(": ")[1] for key in lines if key.startswith("eval: "))
    for task in tasks:
        found = rows(lines, task)
        text += table(task, found)
        save_figure(picture(task, found), options.out / f"{task}.png")
    if not text:
        raise DyTError(f"'{options.out / LINES}' has no evaluation; run --train and --eval first")
    write_text(options.out / REPORT, "\n".join(text) + "\n", DyTError)
    print("\n".join(text))


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the runs and figures")
    for stage in ("train", "eval", "time", "report"):
        parser.add_argument(f"--{stage}", action="store_true")
    parser.add_argument("--data", type=Path, help="folder with a folder of VTAB-1K lists for each task")
    parser.add_argument("--tasks", nargs="+", default=["caltech101", "gtsrb", "rsscn7"])
    parser.add_argument("--weights", type=Path, help="the backbone's weights; none with --small")
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--patch", type=int, default=16, help="side of the backbone's patches")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=None, help="of the images; 224, or 32 with --small")
    parser.add_argument("--epochs", type=int, default=None, help="10, or 1 with --small")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--set", action="append", default=[], help="a field of every run, such as train.lr=3e-3")
    parser.add_argument("--train-split", default=None, help="train800val200, or a tenth of it with --small")
    parser.add_argument("--split", default=None, help="that is evaluated: test, or a tenth of it with --small")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no training is begun")
    parser.add_argument("--progress", action="store_true", help="bars of every run")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--images", type=int, default=None, help="that a timed call runs: 16, or 8 with --small")
    parser.add_argument("--pairs", type=int, default=None, help="timed rounds: 15, or 2 with --small")
    parser.add_argument("--small", action="store_true", help="small sizes, to test this script")
    options = parser.parse_args(arguments)
    defaults = {"size": (224, 32), "epochs": (10, 1), "images": (16, 8), "pairs": (15, 2)}
    defaults |= {"train_split": ("train800val200", "train800val200[0-10%]"), "split": ("test", "test[0-10%]")}
    for name, values in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, values[options.small])
    options.strengths = Strengths((0.5,), (0.5, 1.0), (8,), (0.7,), (0.7,)) if options.small else Strengths()
    if not (options.train or options.eval or options.time or options.report):
        parser.error("give --train, --eval, --time or --report, or several of them")
    if (options.train or options.eval or options.time) and options.data is None:
        parser.error("give --data")
    if (options.train or options.eval or options.time) and options.weights is None and not options.small:
        parser.error("give --weights, the file of the backbone's weights")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU here")
    if options.train and options.device == "cpu" and torch.accelerator.is_available():
        parser.error("--train takes the GPU that is here; give --device cuda, or hide it (CUDA_VISIBLE_DEVICES=)")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the stages that were asked for, in order; 1 if a training failed, 2 for what its user can mend."""
    options = parsed(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        if options.train or options.eval or options.time:
            claim(options)
        failed = trained(options) if options.train else 0
        for asked, stage in ((options.eval, evaluated), (options.time, timed), (options.report, reported)):
            if asked:
                stage(options)
    except DyTError as error:
        print(f"pareto.py: {error}", file=sys.stderr)
        return 2
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
