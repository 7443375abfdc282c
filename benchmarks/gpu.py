"""Correctness and speed on a GPU, in one command of a few minutes: `python benchmarks/gpu.py results.jsonl`.

Nothing but torch, timm, triton and this package is needed: weights and images are random. Parts, in their order:

    device    the two ceilings of the GPU: a large product in bfloat16, and a large copy
    kernels   an MLP branch and an adapter with kernels launched apart and as one; the branch's products at half the
              tokens: cuBLAS, Triton's kernels, torch's grouped product
    correct   every executor against `masked` in three dtypes, forward and backward; CUDA graphs with changing masks;
              forwards that must not wait for the device; float16 training with a GradScaler; a step of two passes
    speed     against dense timm run in the same way (compiled, or CUDA graphs alone), in paired turns: the ratio, its
              interval, and the share of what the multiply-accumulates promise; kernels apart and as one
    train     training steps over that of a static adapter, in paired turns: time and peak memory; of the recipes with
              the teacher's features kept, by executor, and with a teacher's pass in each step
    bank      eight tasks in a batch of eight: a bank, eager and compiled, over swapping and over a model for each task
    profile   the kernels of one forward, of dense timm and of the optimised model, by their time

Every finished point is a line of the file and is not measured again, so that an interrupted run resumes when it is
started again; a point that fails is a line with its error, does not end the others, and is tried again. Points that no
longer fit into `--minutes` are left for the next run. `--report` prints the file. With `--device cpu --small` the same
logic runs on a CPU, at small sizes, as a test of this script: its times say nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from gpu_parts import banks, checks, forwards, products, steps
from gpu_parts.setting import Point, Setting
from gpu_parts.tables import tables

PARTS: Mapping[str, Callable[[Setting], Iterator[Point]]] = {
    "device": products.device_points,
    "kernels": products.kernel_points,
    "correct": checks.points,
    "speed": forwards.speed_points,
    "train": steps.train_points,
    "bank": banks.bank_points,
    "profile": products.profile_points,
}


@dataclass(frozen=True)
class Line:
    """A line of the file.

    Attributes:
        key: part and point.
        result: what was found; None where it failed.
        error: why it failed; empty where it did not.
        seconds: that it took.
        machine: on which GPU, with which versions.
    """

    key: str
    result: Any
    error: str
    seconds: float
    machine: str


def finished(file: Path) -> dict[str, Line]:
    """The last line of each point. An incomplete last line of the file is cut off."""
    if not file.exists():
        return {}
    text = file.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole != len(text):
        with file.open("r+b") as cut:
            cut.truncate(whole)
    lines = [Line(**json.loads(line)) for line in text[:whole].splitlines()]
    return {line.key: line for line in lines}


def machine(device: torch.device) -> str:
    """The device and the versions that a figure belongs to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"
    return f"{name}, torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}"


def run(
    file: Path, parts: Sequence[str], setting: Setting, minutes: float, only: Sequence[str] = ()
) -> dict[str, Line]:
    """Runs the points that the file lacks, and appends a line for each; `only` those that have one of these in them."""
    have, end, where = finished(file), time.monotonic() + minutes * 60, machine(setting.device)
    for part in parts:
        for point in PARTS[part](setting):
            key = f"{part}: {point.name}"
            if (key in have and not have[key].error) or (only and not any(word in key for word in only)):
                continue
            if time.monotonic() + point.seconds > end:
                print(f"{key}: left for another run, of about {point.seconds:.0f} s", flush=True)
                continue
            start, error, result = time.monotonic(), "", None
            try:
                result = point.measure()
            except Exception as raised:  # one point's failure is a result, and must not end the others
                told = traceback.format_exception(raised)
                error = f"{type(raised).__name__}: {raised}"[:1000]
                print("".join(told)[-2500:], file=sys.stderr, flush=True)
            line = Line(key, result, error, round(time.monotonic() - start, 1), where)
            have[key] = line
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(vars(line)) + "\n")
            print(f"{key} ({line.seconds:.1f} s): {error or json.dumps(result)[:400]}", flush=True)
    return have


def report(lines: Mapping[str, Line]) -> Iterator[str]:
    """The file as Markdown."""
    for where in dict.fromkeys(line.machine for line in lines.values()):
        yield f"{where}\n"
    failed = [line for line in lines.values() if line.error]
    checks = [line for line in lines.values() if line.key.startswith("correct: ")]
    if checks:
        yield f"Checks: {sum(not line.error for line in checks)} of {len(checks)} passed.\n"
    yield from tables({line.key: line.result for line in lines.values() if not line.error})
    for line in failed:
        yield f"FAILED {line.key}: {line.error}"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSON lines, appended to")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="points whose name has one of these in it"
    )
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--small", action="store_true", help="small sizes, to test this script")
    parser.add_argument("--report", action="store_true", help="print the file and measure nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the tables, and returns 1 if a point failed."""
    options = parsed(arguments)
    if options.report:
        lines = finished(options.file)
    else:
        setting = Setting(torch.device(options.device), options.small)
        lines = run(options.file, options.parts, setting, options.minutes, options.only)
    print("\n".join(report(lines)))
    return int(any(line.error for line in lines.values()))


if __name__ == "__main__":
    raise SystemExit(main())
