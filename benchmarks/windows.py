"""The gain of attention in windows on large images, in paired turns: `python benchmarks/windows.py`.

All models share one timm architecture with random weights. The dense models run every token, with global attention and
with windows (`backbone.window_size`); DyT has windows, and random masks with half of the tokens active.
"""

from __future__ import annotations

import argparse
import os
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

import dyt
from dyt.measure import paired, random_masks, token_counts

GLOBAL, WINDOWS, DYT = "dense, global attention", "dense, windows", "DyT, windows, 50 % active"


def main() -> None:
    """Prints multiply-accumulates, and the medians of the paired ratios with their intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--size", type=int, default=1024, help="pixels of a side")
    parser.add_argument("--window", type=int, default=14, help="patches of a window's side")
    parser.add_argument("--pairs", type=int, default=11)
    options = parser.parse_args()
    torch.manual_seed(0)
    image = torch.randn(1, 3, options.size, options.size)
    backbone: dict[str, Any] = {"name": options.backbone, "weights": "none", "args": {"img_size": options.size}}
    windowed = {**backbone, "window_size": options.window}
    specs: dict[str, dict[str, Any]] = {
        GLOBAL: {**dyt.preset("linear").model_dump(mode="json"), "backbone": backbone},
        WINDOWS: {**dyt.preset("linear").model_dump(mode="json"), "backbone": windowed},
        DYT: {"backbone": windowed},
    }
    models = {name: dyt.build(spec) for name, spec in specs.items()}
    masks = random_masks(token_counts(models[DYT], image), 1, 0.5)

    def half(name: str) -> AbstractContextManager[None]:
        return dyt.forced(models[name], masks) if name == DYT else nullcontext()

    def run(name: str) -> None:
        with torch.no_grad(), half(name):
            models[name](image)

    gmacs = {}
    for name, model in models.items():
        with half(name):
            gmacs[name] = float(dyt.count_macs(model, image)) / 1e9
    found = paired({name: partial(run, name) for name in models}, pairs=options.pairs)
    print(f"{options.backbone}, {options.size} x {options.size}, windows of at most {options.window} patches")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    for name in models:
        speed = found.speedup(name, over=GLOBAL)
        print(f"{name:26} {gmacs[name]:8.2f} GMACs  best {found.best(name):6.3f} s  {speed} times as fast")
    print(f"median and {speed.coverage:.0%} interval of {speed.pairs} paired ratios, over {GLOBAL}")


if __name__ == "__main__":
    main()
