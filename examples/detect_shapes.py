"""A complete detection run: draws a small data set in COCO's layout, trains, prints the table, draws detections.

    python examples/detect_shapes.py

The backbone is small and has random weights, so the example runs offline in seconds. It shows how a run is made, not
how precise one is. For images of your own, use `dyt train --recipe detection --data FOLDER`.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from rich.console import Console

from dyt.train import RunSpec, fit
from dyt.train.saved import open_saved


def draw(root: Path, count: int) -> None:
    """Writes root/images/*.png and root/instances_<split>.json: a disc, a square or both in each image."""
    rng = random.Random(0)
    (root / "images").mkdir(parents=True)
    for split, images in (("train", count), ("test", max(count // 4, 1))):
        listed, objects = [], []
        for i in range(images):
            name, image = f"{split}{i}.png", Image.new("RGB", (64, 48), tuple(rng.randrange(80) for _ in range(3)))
            pen = ImageDraw.Draw(image)
            for category in rng.sample([1, 2], rng.randrange(1, 3)):
                side = rng.randrange(14, 24)
                x, y = rng.randrange(64 - side), rng.randrange(48 - side)
                colour = tuple(rng.randrange(140, 256) for _ in range(3))
                (pen.ellipse if category == 1 else pen.rectangle)((x, y, x + side, y + side), fill=colour)
                box = {"image_id": i, "category_id": category, "bbox": [x, y, side, side]}
                objects.append({"id": len(objects), "area": side * side, "iscrowd": 0, **box})
            image.save(root / "images" / name)
            listed.append({"id": i, "file_name": name, "width": 64, "height": 48})
        kinds = [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}]
        content = {"images": listed, "annotations": objects, "categories": kinds}
        (root / f"instances_{split}.json").write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=64)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "shapes", Path(folder) / "run"
        draw(data, args.images)
        run = RunSpec.model_validate(
            {
                "model": {
                    "backbone": {
                        "name": "vit_tiny_patch16_224",
                        "weights": "none",
                        "args": {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3},
                    },
                    "adapter": {"type": "bottleneck", "dim": 8},
                    "head": {"type": "faster_rcnn", "channels": 32, "hidden": 64, "anchors": [8, 12, 16, 24, 32]},
                    "objective": {"complete": 0.0, "distill": 0.0},
                    "trainable": "full",  # the backbone is not pretrained
                },
                "data": {"task": "detection", "root": str(data), "workers": 0},
                "train": {"epochs": args.epochs, "batch_size": 8},
            }
        )
        Console().print(fit(run, out).table())
        saved = open_saved(out / "model.safetensors")
        spec, files = saved.spec(None, workers=0), [data / "images" / "test0.png"]
        for answer in saved.task.draw(saved.model, spec, files, saved.names, Path(folder) / "pictures"):
            print(answer.line)
        print(f"boxes drawn: {', '.join(sorted(path.name for path in (Path(folder) / 'pictures').iterdir()))}")


if __name__ == "__main__":
    main()
