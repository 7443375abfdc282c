"""Semantic segmentation: draws images with masks, trains a linear pixel head, predicts, and draws the predictions.

    python examples/segmentation.py

The images are discs on a background, and the backbone is small and has random weights, so the example runs offline in
seconds. It shows how a run is made, not how accurate one is.
"""

import argparse
import random
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from rich.console import Console

from dyt.tasks.kinds import TASKS
from dyt.train import RunSpec, fit
from dyt.train.saved import open_saved


def draw(root: Path, images: int) -> None:
    """Writes root/images/<split>/<i>.png and root/annotations/<split>/<i>.png: a disc (1) on a background (0)."""
    rng = random.Random(0)
    for split, count in (("training", images), ("validation", max(images // 4, 2))):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            image = Image.new("RGB", (64, 48), tuple(rng.randrange(80) for _ in range(3)))
            mask = Image.new("L", image.size, 0)
            x, y, side = rng.randrange(36), rng.randrange(20), rng.randrange(16, 28)
            disc = (x, y, x + side, y + side)
            ImageDraw.Draw(image).ellipse(disc, fill=tuple(rng.randrange(140, 256) for _ in range(3)))
            ImageDraw.Draw(mask).ellipse(disc, fill=1)
            image.save(root / "images" / split / f"{i}.png")
            mask.save(root / "annotations" / split / f"{i}.png")
    (root / "classes.txt").write_text("ground\ndisc\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=64)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "discs", Path(folder) / "run"
        draw(data, args.images)
        run = RunSpec.model_validate(
            {
                "model": {
                    "backbone": {
                        "name": "vit_tiny_patch16_224",
                        "weights": "none",
                        "args": {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
                    },
                    "head": {"type": "pixel"},  # or upernet, with dyt[segmentation]
                    "adapter": {"type": "bottleneck", "dim": 8},
                    "objective": {"complete": 0.0, "distill": 0.0},
                    "trainable": "full",  # the backbone is not pretrained
                },
                "data": {"task": "segmentation", "root": str(data), "workers": 0},
                "train": {"epochs": args.epochs, "batch_size": 8, "warmup_epochs": 0.5},
            }
        )
        Console().print(fit(run, out).table())
        saved = open_saved(out / "model.safetensors")
        image = data / "images" / "validation" / "0.png"
        for answer in TASKS["segmentation"].draw(saved.model, run.data, [image], saved.names, Path(folder) / "drawn"):
            print(answer.line)


if __name__ == "__main__":
    main()
