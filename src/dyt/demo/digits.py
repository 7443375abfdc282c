"""The demo's handwritten digits, written as class folders, so that the demo trains on files like any user's.

They ship with the package (DIGITS.md), so that the demo needs neither a network nor scikit-learn, whose copy they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

FILE = "digits.npz"
TRAIN = 1000
"""Training images; the other 797 are the test split."""
LEVELS = 16
"""The brightest value of a pixel."""


@dataclass(frozen=True)
class Digits:
    """N = 1,797 handwritten digits.

    Attributes:
        images: (N, 8, 8) uint8, from 0 to `LEVELS`.
        labels: (N,) uint8, the digits.
        train: (N,) bool, whether an image is of the training split.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    train: npt.NDArray[np.bool_]


def load_digits() -> Digits:
    """The digits in the order in which they were published, and the demo's fixed, stratified split."""
    with (files("dyt.demo") / FILE).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return Digits(arrays["images"], arrays["labels"], arrays["train"])


def write_digits(root: Path) -> Path:
    """Writes 1,000 training and 797 test images, 8 x 8 grey, as root/<split>/<class>/<number>.png, where missing.

    Loading enlarges them to the backbone's size (bicubic) and repeats grey as RGB.

    Returns:
        `root`.
    """
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / LEVELS)).astype(np.uint8)
    for position, (label, training) in enumerate(zip(digits.labels, digits.train, strict=True)):
        path = root / ("train" if training else "test") / str(label) / f"{position:04d}.png"
        if not path.is_file() or not path.stat().st_size:
            path.parent.mkdir(parents=True, exist_ok=True)
            encoded = BytesIO()
            Image.fromarray(pixels[position]).save(encoded, "PNG")
            path.write_bytes(encoded.getvalue())  # so few bytes are written at once: an interruption leaves none
    return root
