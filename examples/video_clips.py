"""Video from list files: draws videos of a moving square, dark or bright, trains on them, and predicts.

    python examples/video_clips.py --epochs 3

PyAV writes the videos (`pip install 'dyt[video]'`). The backbone is the small one that ships with the package.
"""

import argparse
from pathlib import Path

import av
import numpy as np

from dyt.config.spec import parse
from dyt.demo.runs import shipped
from dyt.tasks.kinds import task_of
from dyt.train import RunSpec, fit
from dyt.train.saved import open_saved

FRAMES, SIDE = 12, 32


def film(path: Path, bright: bool, seed: int) -> None:
    """Writes a video of a moving square, bright or dark, on noise."""
    draw = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        top, left = draw.integers(0, SIDE - 12, 2)
        for i in range(FRAMES):
            pixels = draw.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[top : top + 12, (left + i) % (SIDE - 12) :][:, :12] = 250 if bright else 5
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def films(root: Path, counts: dict[str, int]) -> None:
    """Writes videos and their lists, with lines `path label`."""
    for split, count in counts.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            film(root / split / f"{i}.mp4", bool(i % 2), seed=i + 1000 * len(split))
        (root / f"{split}.txt").write_text("".join(f"{split}/{i}.mp4 {i % 2}\n" for i in range(count)))
    (root / "classes.txt").write_text("dark\nbright\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--films", type=int, default=32)
    args = parser.parse_args()

    root, out = Path("films"), Path("runs/films")
    films(root, {"train": args.films, "test": 8})
    run = parse(
        RunSpec,
        {
            "model": {
                "backbone": shipped(),
                "head": {"type": "query"},
                "adapter": {"type": "bottleneck", "dim": 8},
            },
            "data": {"task": "video", "root": str(root), "frames": 4, "temporal_views": 2, "workers": 0},
            "train": {"epochs": args.epochs, "batch_size": 8, "lr": 5e-3},
        },
    )
    result = fit(run, out, progress=False)
    print(
        f"accuracy {result.test.accuracy:.0%}, {result.test.gmacs:.3f} of {result.test.gmacs_complete:.3f} GMACs a clip"
    )
    saved, task = open_saved(out / "model.safetensors"), task_of(run.data)
    for answer in task.draw(saved.model, run.data, [root / "test" / "1.mp4"], saved.names, Path("pictures")):
        print(answer.line)
    print("pictures are in pictures/")


if __name__ == "__main__":
    main()
