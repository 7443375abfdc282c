"""Attacks a small training run: kills at random moments, damaged checkpoints, two runs in one directory.

    python scripts/attack_runs.py --kills 60 --files 300 --pairs 20 --seed 0

Prints a table of what came of each kind.

A run that was killed is gone on with to its end and compared, bit for bit, with the same run unbroken. A checkpoint
that was damaged must be refused in one line, or give the result of the unbroken run. What gives another result without
a word is silent. Exit code 1 if anything was silent, or raised what is no error of the library's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dyt.config.spec import parse
from dyt.errors import DyTError
from dyt.model.origin import CHECKSUM, checksum
from dyt.train import RunSpec, fit

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}
CHECKPOINT, TIMED = "resume.safetensors", {"seconds", "images_per_second"}
SAME, REFUSED, SILENT, CRASHED = "same result", "refused in one line", "SILENT", "CRASHED"


def run_in(folder: Path) -> RunSpec:
    """Six epochs of three steps on 24 images, with dropout, router noise and augmentation."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for name, colour in COLOURS.items():
            (folder / "images" / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = np.clip(np.array(colour) + noise.normal(20, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "images" / split / name / f"{i}.png")
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    plain = {
        "model": {
            "backbone": {"name": "vit_tiny_patch16_224", "weights": "none", "args": args},
            "adapter": {"type": "bottleneck", "dim": 4, "dropout": 0.3},
        },
        "data": {"root": str(folder / "images"), "workers": 0, "augment": "crop"},
        "train": {"epochs": 6, "batch_size": 8, "lr": 0.01, "checkpoint_every": 2, "eval_every": 2},
    }
    return parse(RunSpec, plain)


def outcome(out: Path) -> tuple[Any, ...]:
    """(bytes of the model's tensors, metrics, result), without what a clock says."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((out / "result.json").read_text())
    tensors = {name: tensor.numpy().tobytes() for name, tensor in load_file(out / "model.safetensors").items()}
    return tensors, [_untimed(row) for row in rows], _untimed(result)


def _untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in TIMED}


# Damage to the bytes of a file --------------------------------------------------------------------------------------


DAMAGES: dict[str, Callable[[bytes, int, random.Random], bytes]] = {
    "one bit": lambda old, at, draw: _over(old, at, bytes([old[at] ^ (1 << draw.randrange(8))])),
    "one byte": lambda old, at, draw: _over(old, at, bytes([(old[at] + draw.randrange(1, 256)) % 256])),
    "block of noise": lambda old, at, draw: _over(old, at, draw.randbytes(draw.choice(SIZES))),
    "block of zeros": lambda old, at, draw: _over(old, at, bytes(draw.choice(SIZES))),
    "cut off": lambda old, at, draw: old[:at],
    "bytes lost": lambda old, at, draw: old[:at] + old[at + draw.choice(SIZES) :],
    "appended": lambda old, at, draw: old + draw.randbytes(draw.choice(SIZES)),
}
SIZES = (8, 64, 512, 4096)


def _over(old: bytes, at: int, new: bytes) -> bytes:
    return old[:at] + new + old[at + len(new) :]


def damaged(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """(kind, content) after one random damage; every second lies in the first bytes, where a file says what it is."""
    kind = draw.choice(list(DAMAGES))
    at = draw.randrange(len(content)) if draw.random() < 0.5 else draw.randrange(min(4096, len(content)))
    return kind, DAMAGES[kind](content, at, draw)


# Wrong fields under a right checksum ----------------------------------------------------------------------------------

Header, Tensors = dict[str, Any], dict[str, torch.Tensor]
Change = Callable[[Header, Tensors, random.Random], None]


def _put(field: str, value: Any) -> Change:
    def change(header: Header, tensors: Tensors, draw: random.Random) -> None:
        header[field] = value(header) if callable(value) else value

    return change


def _lost(header: Header, tensors: Tensors, draw: random.Random) -> None:
    del header[draw.choice(sorted(header))]


def _row(change: Callable[[dict[str, Any]], Any]) -> Change:
    def changed(header: Header, tensors: Tensors, draw: random.Random) -> None:
        change(draw.choice(header["rows"]))

    return changed


def _exchanged(kind: str) -> Change:
    """Two tensors of one shape and dtype stand at one another's place."""

    def change(header: Header, tensors: Tensors, draw: random.Random) -> None:
        names = sorted(name for name in tensors if name.startswith(kind))
        pairs = [(a, b) for a in names for b in names if a < b and tensors[a].shape == tensors[b].shape]
        a, b = draw.choice([(a, b) for a, b in pairs if not torch.equal(tensors[a], tensors[b])])
        tensors[a], tensors[b] = tensors[b], tensors[a]

    return change


def _tensor(change: Callable[[torch.Tensor], torch.Tensor | None]) -> Change:
    def changed(header: Header, tensors: Tensors, draw: random.Random) -> None:
        name = draw.choice(sorted(name for name in tensors if tensors[name].is_floating_point()))
        made = change(tensors.pop(name))
        if made is not None:
            tensors[name] = made

    return changed


def _states(header: Header, tensors: Tensors, draw: random.Random) -> None:
    """Two parameters have one another's state of the optimiser."""
    pairs = dict(header["optimizer"]["dict"])["state"]["dict"]
    pairs[0][1], pairs[1][1] = pairs[1][1], pairs[0][1]


def _decay(header: Header, tensors: Tensors, draw: random.Random) -> None:
    group = dict(header["optimizer"]["dict"])["param_groups"][0]["dict"]
    next(pair for pair in group if pair[0] == "weight_decay")[1] += 0.5


def _nested(header: Header, tensors: Tensors, draw: random.Random) -> None:
    for _ in range(150):
        header["scaler"] = {"tuple": [header["scaler"]]}


CHANGES: dict[str, Change] = {
    "step one on": _put("step", lambda header: header["step"] + 1),
    "step an epoch on": _put("step", lambda header: header["step"] + header["per_epoch"]),
    "step beyond the end": _put("step", 10**6),
    "step negative": _put("step", -1),
    "step a fraction": _put("step", 2.5),
    "step in words": _put("step", "two"),
    "more steps": _put("steps", lambda header: header["steps"] + 3),
    "fewer steps": _put("steps", lambda header: header["step"]),
    "another length of an epoch": _put("per_epoch", lambda header: header["per_epoch"] + 1),
    "epochs of no steps": _put("per_epoch", 0),
    "no rows": _put("rows", []),
    "a row twice": _put("rows", lambda header: [*header["rows"], header["rows"][-1]]),
    "rows that are numbers": _put("rows", [1, 2]),
    "a row's loss": _row(lambda row: row.update(loss=row["loss"] + 1)),
    "a row without loss": _row(lambda row: row.pop("loss")),
    "a row of another step": _row(lambda row: row.update(step=row["step"] + 1)),
    "a row's loss in words": _row(lambda row: row.update(loss="small")),
    "a row's loss not finite": _row(lambda row: row.update(loss=float("nan"))),
    "duration negative": _put("seconds", -1.0),
    "a field lost": _lost,
    "an unknown field": _put("more", 1),
    "another spec": lambda header, tensors, draw: header["run"]["train"].update(lr=0.02),
    "no spec": _put("run", {}),
    "other processes": lambda header, tensors, draw: header["surroundings"].update(world=2),
    "another torch": lambda header, tensors, draw: header["surroundings"]["versions"].update(torch="1.0.0"),
    "other data": lambda header, tensors, draw: header["surroundings"]["train"].update(names="0"),
    "tensors of the model exchanged": _exchanged("model."),
    "tensors of the optimiser exchanged": _exchanged("optimizer."),
    "a tensor lost": _tensor(lambda tensor: None),
    "a tensor of another dtype": _tensor(lambda tensor: tensor.double() if tensor.dtype != torch.float64 else None),
    "a tensor of another shape": _tensor(lambda tensor: torch.stack([tensor, tensor])),
    "a tensor with a changed value": _tensor(lambda tensor: tensor + 1),
    "a tensor not finite": _tensor(lambda tensor: tensor / 0),
    "a tensor too many": lambda header, tensors, draw: tensors.update({"model.more": torch.ones(1)}),
    "no optimiser": _put("optimizer", None),
    "an optimiser without state": _put("optimizer", {"dict": []}),
    "states of the optimiser exchanged": _states,
    "another weight decay": _decay,
    "a scaler nested too deep": _nested,
}
"""By what is wrong; each is then written with a checksum that fits it."""


def changed(source: Path, target: Path, kind: str, draw: random.Random) -> None:
    """Writes a checkpoint with a wrong field and a right checksum."""
    with safe_open(source, "pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    header = json.loads(metadata["header"])
    CHANGES[kind](header, tensors, draw)
    metadata["header"] = json.dumps(header)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata[CHECKSUM] = checksum(tensors, metadata)
    save_file(tensors, target, metadata)


# The attacks ----------------------------------------------------------------------------------------------------------


def begun(run: RunSpec, out: Path, said: Path) -> int:
    """Runs in a forked process, which writes into a file what it says of an error; the process's id."""
    said.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        code = 1
        try:
            fit(run, out, progress=False)
            code = 0
        except BaseException as error:
            said.write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)
    return child


def in_child(run: RunSpec, out: Path, until: float | None) -> str | None:
    """Runs in a process that is killed after so many seconds; what it said of an error, None for none or a kill."""
    said = out.with_suffix(".said")
    child = begun(run, out, said)
    if until is not None:
        time.sleep(until)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return said.read_text() if said.is_file() else None


def kill(folder: Path, run: RunSpec, expected: Any, count: int, draw: random.Random) -> Counter[tuple[str, str]]:
    """So many kills, at moments drawn from the duration of the run, one to three before each run's end."""
    began = time.monotonic()
    in_child(run, folder / "timed", None)
    duration, found, done = time.monotonic() - began, Counter[tuple[str, str]](), 0
    while done < count:
        out = folder / f"killed-{done}"
        kills = min(draw.randint(1, 3), count - done)
        errors = [in_child(run, out, draw.uniform(0, 1.05 * duration)) for _ in range(kills)]
        errors.append(in_child(run, out, None))
        done += kills
        failed = next((error for error in errors if error is not None), None)
        if failed is not None:
            print(f"  after {kills} kills: {failed}", flush=True)
        what = CRASHED if failed is not None else SAME if outcome(out) == expected else SILENT
        found[f"{kills} kill{'s' if kills > 1 else ''}, then to the end", what] += 1
        shutil.rmtree(out)
    return found


def pair(folder: Path, run: RunSpec, expected: Any, count: int, draw: random.Random) -> Counter[tuple[str, str]]:
    """So many times two processes with one directory, the second up to 0.4 s after the first."""
    found = Counter[tuple[str, str]]()
    for _ in range(count):
        out, says = folder / "pair", [folder / "first.said", folder / "second.said"]
        children = [begun(run, out, says[0])]
        time.sleep(draw.uniform(0, 0.4))
        children.append(begun(run, out, says[1]))
        for child in children:
            os.waitpid(child, 0)
        errors = [file.read_text() for file in says if file.is_file()]
        if len(errors) > 1 or not all(error.startswith("RunError: another run is writing into") for error in errors):
            what = CRASHED
        elif outcome(out) != expected:
            what = SILENT
        else:
            what = REFUSED if errors else SAME
        found["two runs in one directory", what] += 1
        shutil.rmtree(out)
    return found


def refused_or_same(run: RunSpec, out: Path, expected: Any) -> str:
    """What comes of going on with what lies in the directory."""
    try:
        fit(run, out, progress=False)
    except DyTError as error:
        return REFUSED if "\n" not in str(error) and len(str(error)) < 1200 else CRASHED
    except Exception as error:
        print(f"  {type(error).__name__}: {str(error)[:200]}", flush=True)
        return CRASHED
    return SAME if outcome(out) == expected else SILENT


def stopped(folder: Path, run: RunSpec) -> Path:
    """A directory whose run was killed after a checkpoint in the midst of its fourth epoch."""
    out = folder / "stopped"
    child = os.fork()
    if not child:
        fit(run, out, progress=False)
        os._exit(0)
    while True:
        time.sleep(0.001)
        if (out / CHECKPOINT).is_file():
            os.kill(child, signal.SIGSTOP)
            with safe_open(out / CHECKPOINT, "pt") as file:
                step = json.loads(file.metadata()["header"])["step"]
            if step == 10:
                break
            os.kill(child, signal.SIGCONT)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return out


def damage(folder: Path, run: RunSpec, expected: Any, count: int, draw: random.Random) -> Counter[tuple[str, str]]:
    """So many damaged files: half by their bytes, half by a field under a right checksum."""
    source, found = stopped(folder, run), Counter[tuple[str, str]]()
    content, kinds = (source / CHECKPOINT).read_bytes(), list(CHANGES)
    for k in range(count):
        out = folder / "damaged"
        shutil.copytree(source, out)
        if k % 2:
            kind, bad = damaged(content, draw)
            (out / CHECKPOINT).write_bytes(bad)
        else:
            kind = kinds[k // 2 % len(kinds)]
            changed(source / CHECKPOINT, out / CHECKPOINT, kind, draw)
        what = refused_or_same(run, out, expected)
        if what in {SILENT, CRASHED}:
            print(f"  {kind}: {what}", flush=True)
        found[f"bytes: {kind}" if k % 2 else "a wrong field, right checksum", what] += 1
        shutil.rmtree(out)
    return found


def main() -> int:
    """Attacks, prints the table, and gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    draw, found = random.Random(given.seed), Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = run_in(folder)
        fit(run, folder / "unbroken", progress=False)
        expected = outcome(folder / "unbroken")
        if given.kills:
            found += kill(folder, run, expected, given.kills, draw)
        if given.pairs:
            found += pair(folder, run, expected, given.pairs, draw)
        if given.files:
            found += damage(folder, run, expected, given.files, draw)
    columns = (SAME, REFUSED, SILENT, CRASHED)
    print(f"| {'attack':34} | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for attack in sorted({attack for attack, _ in found}):
        print(f"| {attack:34} | {' | '.join(str(found[attack, column]) for column in columns)} |")
    bad = sum(number for (_, what), number in found.items() if what in {SILENT, CRASHED})
    print(f"{sum(found.values())} in all, {bad} silent or crashed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
