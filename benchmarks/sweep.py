"""The full sweep of `dyt bench`, resumable: `python benchmarks/sweep.py results.jsonl`.

It measures backbones x batches x dtypes x eager and compiled: batches 1, 8 and 32 on the CPU, 1, 8, 32, 128 and 256 on
a GPU. Every finished point is a line of the file and is not measured again, so an interrupted sweep resumes when it is
started again. `--report` prints the file, `--plot` draws it. `--paper` measures the rows of the paper's tables 4 and 5
instead, and prints them beside the printed numbers. `--calibrate` adds the optimised model after
`dyt.calibrate_break_even`, calibrated once for all rates; `--plot-activity` draws the speed-ups over the active share.

    python benchmarks/sweep.py cpu.jsonl --threads 2
    python benchmarks/sweep.py gpu.jsonl --device cuda
    python benchmarks/sweep.py paper.jsonl --paper --device cuda --batches 512 --dtypes float32 --modes eager
    python benchmarks/sweep.py activity.jsonl --calibrate --rates 0 0.25 0.5 0.75 1 --dtypes float32 --modes eager
    python benchmarks/sweep.py trained.jsonl --model runs/mine/model.safetensors --data path/to/images
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import torch

import dyt
from dyt.core.breakeven import BreakEven
from dyt.inference.contenders import REWRITES
from dyt.measure import contenders
from dyt.measure.bench import Bench, compare
from dyt.measure.contenders import OPTIMISED, PEERS
from dyt.measure.speed import over_activity, picture, table
from dyt.model.dynamic import DynamicModel
from dyt.paper.speeds import PAPER_PEERS, beside_paper
from dyt.train.saved import open_saved

BACKBONES = ("vit_small_patch16_224", "vit_base_patch16_224")
CALIBRATED = f"{OPTIMISED}, calibrated"
CPU_BATCHES, GPU_BATCHES = (1, 8, 32), (1, 8, 32, 128, 256)


@dataclass(frozen=True)
class Point:
    """One measured point: a line of the file."""

    backbone: str
    batch: int
    dtype: str
    compiled: bool
    rate: float | None
    device: str
    paper: bool
    calibrated: bool

    @property
    def key(self) -> str:
        """Equal for the same point in every run."""
        return json.dumps(vars(self), sort_keys=True)


def finished(file: Path) -> dict[str, Bench]:
    """The file's lines by point. An incomplete last line is cut off, and its point is measured again."""
    if not file.exists():
        return {}
    found, whole = {}, 0
    for line in file.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            with file.open("r+b") as cut:
                cut.truncate(whole)
            break
        whole += len(line)
        data = json.loads(line)
        found[data["point"]] = Bench.of(data["bench"])
    return found


def points(options: argparse.Namespace, backbones: Sequence[str]) -> Iterator[Point]:
    """All points in the order of measurement: small batches of small models first."""
    rates = [None] if options.model else options.rates
    modes = [mode == "compiled" for mode in options.modes]
    for backbone, dtype, compiled, batch, rate in product(
        backbones, options.dtypes, modes, sorted(options.batches), rates
    ):
        yield Point(backbone, batch, dtype, compiled, rate, options.device, options.paper, options.calibrate)


@cache
def break_evens(backbone: str, batch: int, dtype: str, device: str) -> Mapping[str, BreakEven]:
    """The break-evens of the optimised model, by site."""
    model, images = untrained(backbone, batch)
    kind = getattr(torch, dtype)
    return dyt.calibrate_break_even(dyt.optimize(model.to(device, kind)), images.to(device, kind), (batch,)).sites


def calibrated(model: DynamicModel, found: Mapping[str, BreakEven]) -> DynamicModel:
    """The optimised model with these break-evens."""
    fast = dyt.optimize(model)
    for site in fast.sites:
        site.break_even = found.get(site.name)
    return fast


def untrained(backbone: str, batch: int, preset: str = "dyt") -> tuple[DynamicModel, torch.Tensor]:
    """A model with random weights, and random images."""
    spec = dyt.preset(preset).model_copy(update={"backbone": dyt.BackboneSpec(name=backbone)})
    return contenders.untrained(spec, batch)


def measured(point: Point, options: argparse.Namespace) -> Bench:
    """Measures one point."""
    if options.model:
        saved = open_saved(options.model)
        model, images = saved.model, saved.sample(options.data, point.batch)
    else:
        model, images = untrained(point.backbone, point.batch, "dyt_vtab" if point.paper else "dyt")
    faster = dict(REWRITES)
    if point.calibrated:
        found = break_evens(point.backbone, point.batch, point.dtype, point.device)
        faster[CALIBRATED] = lambda model: calibrated(model, found)
    return compare(
        model.to(point.device),
        images.to(point.device),
        point.rate,
        dtype=point.dtype,
        compiled=point.compiled,
        pairs=options.pairs,
        executor_names=options.executors,
        peers=PAPER_PEERS if point.paper else {} if options.no_peers else PEERS,
        rewrites=faster,
    )


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSON lines, appended to")
    parser.add_argument("--backbones", nargs="+", default=None)
    parser.add_argument("--batches", nargs="+", type=int, default=None)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--modes", nargs="+", choices=["eager", "compiled"], default=["eager", "compiled"])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.5])
    parser.add_argument("--executors", nargs="+", default=["sparse"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--model", type=Path, default=None, help="a trained model.safetensors; its own routers decide")
    parser.add_argument("--data", default=None, help="its images")
    parser.add_argument("--paper", action="store_true", help="the rows of tables 4 and 5, on ViT-B/16")
    parser.add_argument("--no-peers", action="store_true", help="DyT and dense timm only")
    parser.add_argument("--calibrate", action="store_true", help="also the optimised model, calibrated")
    parser.add_argument("--report", action="store_true", help="print the file and measure nothing")
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--plot-activity", type=Path, default=None)
    options = parser.parse_args(arguments)
    if options.batches is None:
        options.batches = CPU_BATCHES if options.device == "cpu" else GPU_BATCHES
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the points that the file lacks, and prints each."""
    options = parsed(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    have = finished(options.file)
    show = beside_paper if options.paper else table
    if options.report:
        for one in have.values():
            print("\n".join(show(one)), end="\n\n")
    else:
        given = [open_saved(options.model).model.spec.backbone.name] if options.model else options.backbones
        for point in points(options, given or (BACKBONES[1:] if options.paper else BACKBONES)):
            if point.key in have:
                continue
            have[point.key] = one = measured(point, options)
            with options.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"point": point.key, "bench": one.data()}) + "\n")
            print("\n".join(show(one)), end="\n\n", flush=True)
            torch.compiler.reset()
    if options.plot is not None:
        picture(list(have.values())).savefig(options.plot, dpi=150)
    if options.plot_activity is not None:
        over_activity(list(have.values())).savefig(options.plot_activity, dpi=150)


if __name__ == "__main__":
    main()
