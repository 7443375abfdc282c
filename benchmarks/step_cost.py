"""The cost of a DyT fine-tuning step over that of a static adapter, in paired turns: `python benchmarks/step_cost.py`.

All models share one timm architecture with random weights; a step is the forward and backward of `dyt.TuningStep`. The
static adapter runs one pass, DyT (preset `dyt_vtab`) the dynamic and the complete pass. `plain` computes both passes in
full; `DyT` computes their shared prefix once and skips the backward pass of inactive tokens' branches. The default
recipe's objective is one pass that computes active tokens alone, at the rate that is named, or at a rate for each step
as it is trained ("any rate"). `one_rate` has a pass of the pretrained backbone without gradient as well, whose features
are kept from before the first step where images are not augmented ("teacher kept").
The activations are the bytes that autograd keeps between the forward and the backward of a step.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from typing import Any

import torch

import dyt
from dyt.measure import paired
from dyt.measure.activations import saved_bytes
from dyt.objective.teacher import teacher_rows
from dyt.train import recipe
from dyt.train.importance import start_routers

STATIC, PLAIN, DYT = "static adapter", "DyT, plain", "DyT"
RATES = (0.3, 0.5, 0.7)


def step_of(
    model_spec: dict[str, Any],
    backbone: str,
    images: torch.Tensor,
    labels: torch.Tensor,
    economical: bool = True,
    kept: bool = False,
) -> tuple[Callable[[], None], int]:
    """The forward and backward of one step, and the bytes of activations that it keeps.

    Args:
        kept: whether the teacher's features were computed before.
    """
    spec = model_spec | {"backbone": {"name": backbone, "weights": "none"}, "head": {"num_classes": 100}}
    model = dyt.build(spec).train()
    if model.spec.objective.control == "threshold":  # as a run begins, so that the rate is held from the first step on
        start_routers(model, [images], model.spec.objective.rate)
    step, number = dyt.TuningStep(model, economical=economical), itertools.count()
    rows = teacher_rows(model, images) if kept else None

    def run() -> None:
        model.zero_grad(set_to_none=True)
        loss, _ = step(images, labels, 1.0, next(number), rows)
        loss.backward()

    run()  # of a spread the thresholds are at the step's rate from the second step on
    return run, saved_bytes(lambda: step(images, labels, 1.0, next(number), rows), model)


def at_rate(rate: float | None) -> dict[str, Any]:
    """The default recipe's model, for one rate alone; None for its own spread."""
    model = recipe("default")["model"]
    if rate is not None:
        model["objective"] |= {"rate": rate, "spread": None}
    return model


def main() -> None:
    """Prints the medians of the paired ratios with their intervals, and the activations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--cpu-time", action="store_true", help="the process's CPU seconds, for a busy machine")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images, labels = torch.randn(options.batch, 3, 224, 224), torch.randint(0, 100, (options.batch,))
    of = {name: dyt.preset(name).model_dump(mode="json") for name in ("dyt_vtab", "static_adapter_vtab")}
    steps = {
        STATIC: step_of(of["static_adapter_vtab"], options.backbone, images, labels),
        PLAIN: step_of(of["dyt_vtab"], options.backbone, images, labels, economical=False),
        DYT: step_of(of["dyt_vtab"], options.backbone, images, labels),
        "one_rate": step_of(recipe("one_rate")["model"], options.backbone, images, labels),
        "one_rate, teacher kept": step_of(recipe("one_rate")["model"], options.backbone, images, labels, kept=True),
    }
    for rate in (*RATES, None):
        name = f"default recipe, {'any rate' if rate is None else rate}"
        steps[name] = step_of(at_rate(rate), options.backbone, images, labels)
    clock = time.process_time if options.cpu_time else time.perf_counter
    found = paired({name: run for name, (run, _) in steps.items()}, pairs=options.pairs, clock=clock)
    print(f"{options.backbone}, batch {options.batch}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("CPU time" if options.cpu_time else "wall-clock time")
    print(f"load of the machine's last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, (_, kept) in steps.items():
        ratio = found.speedup(STATIC, over=name)
        print(f"{name:26} best {found.best(name):7.3f} s, {ratio} of the static adapter's, {kept / 2**20:7.1f} MiB")
    print(f"median and {ratio.coverage:.0%} interval of {ratio.pairs} paired ratios")


if __name__ == "__main__":
    main()
