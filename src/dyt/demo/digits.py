"""scikit-learn's handwritten digits as class folders, so that the demo trains on files like any user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TRAIN = 1000
"""Training images; the other 797 are the test split."""


def write_digits(root: Path) -> Path:
    """Writes 1,000 training and 797 test images, 8 x 8 grey, as root/<split>/<class>/<number>.png, where missing.

    The split is fixed and stratified. Loading enlarges them to the backbone's size (bicubic) and repeats grey as RGB.

    Returns:
        `root`.
    """
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(np.arange(len(pixels)), train_size=TRAIN, random_state=0, stratify=digits.target)
    for split, positions in (("train", train), ("test", test)):
        for position in sorted(positions.tolist()):
            path = root / split / str(digits.target[position]) / f"{position:04d}.png"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[position]).save(path)
    return root
