"""A complete fine-tuning run on class folders: draws a small data set, trains, prints the table, loads the result.

    python examples/finetune_folder.py

The images are discs and squares, and the backbone is small and has random weights, so the example runs offline in
seconds. It shows how a run is made, not how accurate one is. For images of your own, use `dyt train --data FOLDER`.
"""

import argparse
import random
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from rich.console import Console

import dyt
from dyt.train import RunSpec, fit


def draw(root: Path, images_per_class: int) -> None:
    """Writes root/<split>/<class>/<i>.png, for two classes."""
    rng = random.Random(0)
    for split, count in (("train", images_per_class), ("test", max(images_per_class // 4, 1))):
        for shape in ("disc", "square"):
            (root / split / shape).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (32, 32), tuple(rng.randrange(80) for _ in range(3)))
                x, y, side = rng.randrange(4, 12), rng.randrange(4, 12), rng.randrange(10, 18)
                pen, colour = ImageDraw.Draw(image), tuple(rng.randrange(140, 256) for _ in range(3))
                (pen.ellipse if shape == "disc" else pen.rectangle)((x, y, x + side, y + side), fill=colour)
                image.save(root / split / shape / f"{i}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images-per-class", type=int, default=64)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "shapes", Path(folder) / "run"
        draw(data, args.images_per_class)
        run = RunSpec.model_validate(
            {
                "model": {
                    "backbone": {
                        "name": "vit_tiny_patch16_224",
                        "weights": "none",
                        "args": {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3},
                    },
                    "adapter": {"type": "bottleneck", "dim": 8},
                    "trainable": "full",  # the backbone is not pretrained
                },
                "data": {"root": str(data), "workers": 0},
                "train": {"epochs": args.epochs, "batch_size": 16, "warmup_epochs": 1},
            }
        )
        result = fit(run, out)
        Console().print(result.table())
        model = dyt.load(out / "model.safetensors")
        print(
            f"{', '.join(sorted(path.name for path in out.iterdir()))}: a model of {len(model.sites)} sites was loaded"
        )


if __name__ == "__main__":
    main()
