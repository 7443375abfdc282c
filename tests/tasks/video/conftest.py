"""Tiny videos: an H.264 or MPEG-4 file whose frames are told apart by their grey."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="the extra dyt[video]")

SIZE = (32, 48)
STEP = 6
"""Grey levels between neighbouring frames."""
Film = Callable[..., Path]


def film(path: Path, frames: int = 20, colour: tuple[int, int, int] | None = None) -> Path:
    """A video whose frame i is grey of level 20 + STEP * i, or all of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 400_000
        for i in range(frames):
            pixels = np.empty((*SIZE, 3), np.uint8)
            pixels[:] = 20 + STEP * i if colour is None else colour
            pixels[:8, :8] = 255 - 10 * i if colour is not None else pixels[0, -1]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 20 frames."""
    return film(tmp_path_factory.mktemp("film") / "grey.mp4")


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of 12 training and 6 test films of two colours."""
    root = tmp_path_factory.mktemp("videos")
    for name, count in {"train": 12, "test": 6}.items():
        lines = []
        for i in range(count):
            path = film(root / name / f"{i}.mp4", 9 + i, ((200, 20, 20), (20, 20, 200))[i % 2])
            lines.append(f"{path.relative_to(root)} {i % 2}\n")
        (root / f"{name}.txt").write_text("".join(lines))
    return root
