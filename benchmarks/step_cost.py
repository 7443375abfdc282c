"""What a DyT fine-tuning step costs against a static adapter's, in paired turns: `python benchmarks/step_cost.py`.

Both models share one timm architecture with random weights; a step is the forward and backward of `dyt.TuningStep`.
DyT runs the dynamic and the complete pass, the static adapter one pass.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

import dyt
from dyt.measure import paired


def step_of(preset: str, backbone: str, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """The forward and backward of one step of a preset's model."""
    spec = dyt.preset(preset).model_dump()
    spec |= {"backbone": {"name": backbone, "weights": "none"}, "head": {"num_classes": 100}}
    model = dyt.build(spec).train()
    step = dyt.TuningStep(model)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        loss, _ = step(images, labels)
        loss.backward()

    return run


def main() -> None:
    """Prints the median of the paired ratios with its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images, labels = torch.randn(options.batch, 3, 224, 224), torch.randint(0, 100, (options.batch,))
    found = paired(
        {name: step_of(name, options.backbone, images, labels) for name in ("dyt_vtab", "static_adapter_vtab")},
        pairs=options.pairs,
    )
    ratio = found.speedup("static_adapter_vtab", over="dyt_vtab")
    print(f"{options.backbone}, batch {options.batch}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(
        f"static adapter step {found.best('static_adapter_vtab'):.3f} s, DyT step {found.best('dyt_vtab'):.3f} s (best)"
    )
    print(f"DyT step / static adapter step: {ratio} (median of {ratio.pairs} paired ratios)")


if __name__ == "__main__":
    main()
