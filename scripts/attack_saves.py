"""Kills processes that save, at random moments, and counts wrong files and what is left behind.

Each child saves to one path in a loop, by one of the library's writers; it is killed with SIGKILL after a random time.
Then the file must be a whole one, of one single save, and after the next save nothing else may lie beside it. With
--full-disk DIR, a folder on a small disk, files that do not fit are saved there as well: each must be refused by one of
the library's errors, with the old file as it was. On Linux such a disk is made without being root:

    unshare -rm sh -c 'mount -t tmpfs -o size=300k none /mnt && python scripts/attack_saves.py --full-disk /mnt'

    python scripts/attack_saves.py --kills 200
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

import dyt
from dyt.io import tensor_file
from dyt.train.state import RunError
from dyt.writing import whole, write_text

SMALL = {"name": "vit_tiny_patch16_224", "weights": "none", "args": {"depth": 1, "embed_dim": 48, "img_size": 32}}
SPEC = {"backbone": SMALL, "head": {"num_classes": 4}}
LINES = 20_000


@dataclass(frozen=True)
class Writer:
    """One way to write a file.

    Attributes:
        file: its name.
        save: writes a file that is full of one number.
        numbers: the different numbers in a file; more than one if it is of two saves.
    """

    file: str
    save: Callable[[Path, int], None]
    numbers: Callable[[Path], set[int]]


def save_model(path: Path, number: int) -> None:
    torch.nn.init.constant_(MODEL.backbone.head.weight, number)
    torch.nn.init.constant_(MODEL.backbone.head.bias, number)
    dyt.save(MODEL, path, whole=True)


def of_model(path: Path) -> set[int]:
    head = dyt.load(path).backbone.head
    return {int(number) for tensor in (head.weight, head.bias) for number in tensor.flatten()}


def save_state(path: Path, number: int) -> None:
    """As a run saves its state."""
    with whole(path, RunError) as draft:
        tensor_file.write({"a": torch.full((99_999,), number), "b": torch.full((9,), number)}, {"a": "b"}, draft)


def of_state(path: Path) -> set[int]:
    return {int(number) for tensor in load_file(path).values() for number in tensor.unique()}


WRITERS = {
    "dyt.save": Writer("model.safetensors", save_model, of_model),
    "a run's state": Writer("resume.safetensors", save_state, of_state),
    "text": Writer(
        "results.csv",
        lambda path, number: write_text(path, f"{number}\n" * LINES),
        lambda path: {int(line) for line in path.read_text().splitlines()} if len(path.read_bytes()) else set(),
    ),
}


def killed(writer: Writer, path: Path, first: int, seconds: float) -> None:
    """A child that saves in a loop, from a number on, and is killed after so many seconds."""
    child = os.fork()
    if not child:
        try:
            while True:
                first += 1
                writer.save(path, first)
        finally:
            os._exit(1)  # reached by an error alone
    time.sleep(seconds)
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        raise RuntimeError(f"the child ended by itself, with {status}")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def attack(writer: Writer, folder: Path, kills: int, rng: random.Random) -> list[int]:
    """[saves that were finished, wrong files, kills that left something, leftovers after the next save]."""
    path, saves, wrong, dirty, left = folder / writer.file, 0, 0, 0, 0
    start = time.perf_counter()
    writer.save(path, 0)
    once = time.perf_counter() - start
    for _ in range(kills):
        before = max(writer.numbers(path))
        seconds = rng.uniform(0, max(6 * once, 0.2))  # starting a child takes some of it
        killed(writer, path, before, seconds)
        dirty += len(list(folder.iterdir())) > 1
        try:
            found = writer.numbers(path)
        except dyt.DyTError:
            found = set()
        wrong += len(found) != 1
        saves += max(found, default=before) - before
        writer.save(path, max(found, default=before))
        left += len(list(folder.iterdir())) - 1
    return [kills, saves, wrong, dirty, left]


def fill(writer: Writer, folder: Path) -> str:
    """Saves to a disk on which a second file does not fit."""
    path = folder / writer.file
    path.write_bytes(b"old")
    rest = os.statvfs(folder)
    stuffing = folder / "stuffing"
    stuffing.write_bytes(b"-" * max(rest.f_bavail * rest.f_frsize - 20_000, 0))
    try:
        writer.save(path, 1)
        answer = "written"
    except dyt.DyTError as error:
        answer = f"{type(error).__name__}: {error}"
    intact = path.read_bytes() == b"old" and {file.name for file in folder.iterdir()} == {path.name, stuffing.name}
    for file in folder.iterdir():
        file.unlink()
    return f"{'old file intact' if intact else 'WRONG'}; {answer}"


def main() -> int:
    """Prints a table; 1 if a file was wrong, or something was left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of each writer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full-disk", type=Path, help="a folder on a disk of about 300 kB, which is filled")
    given = parser.parse_args()
    rng, faults = random.Random(given.seed), 0
    print("| writer | kills | saves finished | wrong files | kills that left something | left after the next save |")
    print("|---|---|---|---|---|---|")
    for name, writer in WRITERS.items():
        with tempfile.TemporaryDirectory() as folder:
            row = attack(writer, Path(folder), given.kills, rng)
        print(f"| {name} | {' | '.join(map(str, row))} |", flush=True)
        faults += row[2] + row[4]
    if given.full_disk is not None:
        print("\n| writer | on a full disk |\n|---|---|")
        for name, writer in WRITERS.items():
            answer = fill(writer, given.full_disk)
            faults += not answer.startswith("old file intact; ") or answer.endswith("; written")
            print(f"| {name} | {answer} |", flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    MODEL = dyt.build(SPEC)
    raise SystemExit(main())
