"""The cost of rounding the number of rows in `sparse`, in paired turns of processor time.

`python benchmarks/rounded_rows.py` uses one timm architecture with random weights. In each turn both forms run the same
random masks. Rates differ by up to 0.05 from turn to turn, so the number of rows is nearly always a new one.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable

import torch

import dyt
from dyt.core.context import changed
from dyt.executors import Sparse
from dyt.measure import paired, random_masks, token_counts

ROUNDED, EXACT = "rounded rows", "a row for each token"


def main() -> None:
    """Prints the medians of the paired ratios with their intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--pairs", type=int, default=60)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = dyt.build({"backbone": {"name": options.backbone, "weights": "none"}})
    images = torch.randn(options.batch, 3, 224, 224)
    tokens = token_counts(model, images[:1])
    print(f"{options.backbone}, batch {options.batch}, one thread")
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")

    def turns(executor: Sparse, rate: float) -> Callable[[], None]:
        """Each call runs the forward of the next turn, with the same masks as the other form in that turn."""
        drawn = random.Random(0)

        def forward() -> None:
            masks = random_masks(tokens, options.batch, rate + drawn.uniform(-0.05, 0.05), drawn.randrange(2**31))
            with torch.no_grad(), dyt.forced(model, masks), changed(model.key, executor=executor):
                model(images)

        return forward

    for rate in options.rates:
        runs = {ROUNDED: turns(Sparse(), rate), EXACT: turns(Sparse(exact=True), rate)}
        cost = paired(runs, options.pairs, 2, time.process_time).speedup(EXACT, over=ROUNDED)
        print(f"rate {rate:.1f}: {ROUNDED} take {cost.median:.3f} [{cost.low:.3f}, {cost.high:.3f}] times as long")
    print(f"medians and {cost.coverage:.0%} intervals of {cost.pairs} paired ratios, over {EXACT}")


if __name__ == "__main__":
    main()
