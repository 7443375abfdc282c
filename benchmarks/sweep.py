"""The full sweep of `dyt bench`, resumable: `python benchmarks/sweep.py results.jsonl`.

Backbones x batches x dtypes x eager and compiled; on the CPU batches 1, 8 and 32, on a GPU 1, 8, 32, 128 and 256. Every
finished point is a line of the file, and is not measured again; a sweep that was stopped goes on when it is started
again. `--report` prints what the file has, `--plot` draws it. `--paper` measures the rows of the paper's tables 4 and 5
instead, and prints them beside the printed numbers.

    python benchmarks/sweep.py cpu.jsonl --threads 2
    python benchmarks/sweep.py gpu.jsonl --device cuda
    python benchmarks/sweep.py paper.jsonl --paper --device cuda --batches 512 --dtypes float32 --modes eager
    python benchmarks/sweep.py trained.jsonl --model runs/mine/model.safetensors --data path/to/images
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

import dyt
from dyt.backbone import input_size
from dyt.cli.bench import rewrites, trained
from dyt.measure.bench import Bench, compare
from dyt.measure.contenders import PAPER_PEERS, PEERS
from dyt.measure.speed import beside_paper, picture, table

BACKBONES = ("vit_small_patch16_224", "vit_base_patch16_224")
CPU_BATCHES, GPU_BATCHES = (1, 8, 32), (1, 8, 32, 128, 256)


@dataclass(frozen=True)
class Point:
    """What one line of the file is of."""

    backbone: str
    batch: int
    dtype: str
    compiled: bool
    rate: float | None
    device: str
    paper: bool

    @property
    def key(self) -> str:
        """The same for the same point."""
        return json.dumps(vars(self), sort_keys=True)


def finished(file: Path) -> dict[str, Bench]:
    """What the file has, by point; a last line that was not written whole is cut off, and its point measured again."""
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
    """In the order in which they are measured: small batches of small models first."""
    rates = [None] if options.model else options.rates
    modes = [mode == "compiled" for mode in options.modes]
    for backbone, dtype, compiled, batch, rate in product(
        backbones, options.dtypes, modes, sorted(options.batches), rates
    ):
        yield Point(backbone, batch, dtype, compiled, rate, options.device, options.paper)


def measured(point: Point, options: argparse.Namespace) -> Bench:
    """One point."""
    if options.model:
        model, images = trained(options.model, options.data, point.batch)
    else:
        torch.manual_seed(0)
        spec = dyt.preset("dyt_vtab" if point.paper else "dyt").model_dump(mode="json")
        model = dyt.build(spec | {"backbone": {"name": point.backbone, "weights": "none"}})
        images = torch.randn(point.batch, 3, *input_size(model.backbone))
    return compare(
        model.to(point.device),
        images.to(point.device),
        point.rate,
        dtype=point.dtype,
        compiled=point.compiled,
        pairs=options.pairs,
        executor_names=options.executors,
        peers=PAPER_PEERS if point.paper else PEERS,
        rewrites=rewrites(),
    )


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
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
    parser.add_argument("--model", type=Path, default=None, help="a trained model.safetensors, routed by itself")
    parser.add_argument("--data", default=None, help="its images")
    parser.add_argument("--paper", action="store_true", help="the rows of tables 4 and 5, on ViT-B/16")
    parser.add_argument("--report", action="store_true", help="print what the file has, and measure nothing")
    parser.add_argument("--plot", type=Path, default=None)
    options = parser.parse_args(arguments)
    if options.batches is None:
        options.batches = CPU_BATCHES if options.device == "cpu" else GPU_BATCHES
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what the file does not have, and prints each point."""
    options = parsed(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    have = finished(options.file)
    show = beside_paper if options.paper else table
    if options.report:
        for one in have.values():
            print("\n".join(show(one)), end="\n\n")
    else:
        given = [dyt.load(options.model).spec.backbone.name] if options.model else options.backbones
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


if __name__ == "__main__":
    main()
