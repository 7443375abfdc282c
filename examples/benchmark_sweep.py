"""A sweep in Python: draws two tasks in VTAB-1K's list layout, runs them in parallel, and prints one table.

    python examples/benchmark_sweep.py

Each task is a process of its own, as in `dyt sweep vtab1k`. A second call finds both finished and runs nothing again.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from dyt.config.spec import parse
from dyt.demo.runs import shipped
from dyt.sweeps import Job, sweep
from dyt.train import RunSpec

SIDE = 32


def draw(root: Path, stripes: bool, images: int) -> None:
    """Writes root/images and the lists: two classes that differ in the direction of stripes, or in colour."""
    noise = np.random.default_rng(int(stripes))
    (root / "images").mkdir(parents=True, exist_ok=True)
    for split, count in (("train800val200", images), ("test", images // 2)):
        lines = []
        for i in range(count):
            wave = 90 * np.sin(np.arange(SIDE) * 0.8 + noise.uniform(0, 6))
            pixels = np.full((SIDE, SIDE, 3), 128.0)
            if stripes:
                pixels += (wave[None, :] if i % 2 else wave[:, None])[..., None]
            else:
                pixels[..., 2 * (i % 2)] += 60
            pixels = np.clip(pixels + noise.normal(0, 30, pixels.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{split}_{i}.png")
            lines.append(f"images/{split}_{i}.png {i % 2}\n")
        (root / f"{split}.txt").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=96)
    args = parser.parse_args()

    data, out, jobs = Path("tasks"), Path("runs/sweep"), []
    for name in ("stripes", "colours"):
        draw(data / name, name == "stripes", args.images)
        run = {
            "model": {"backbone": shipped(), "adapter": {"type": "bottleneck", "dim": 8}},
            "data": {"root": str(data / name), "workers": 0},
            "train": {"epochs": args.epochs, "batch_size": 16, "lr": 5e-3},
        }
        jobs.append(Job(name, parse(RunSpec, run), out / name))

    print("| task | accuracy | active | GMACs | dense |\n| --- | ---: | ---: | ---: | ---: |")
    for name, outcome in sweep(jobs, parallel=2, progress=False).items():
        if outcome.result is None:
            raise SystemExit(f"{name}: {outcome.error}")
        test = outcome.result.test
        print(f"| {name} | {test.accuracy:.0%} | {test.active_rate:.2f} | {test.gmacs:.4f} | {test.gmacs_dense:.4f} |")


if __name__ == "__main__":
    main()
