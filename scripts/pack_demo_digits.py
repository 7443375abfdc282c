"""Writes the digits of `dyt demo`, src/dyt/demo/digits.npz, from scikit-learn's copy, split as the demo has them.

    python scripts/pack_demo_digits.py

The split is scikit-learn's stratified one of seed 0. It is stored, so that the demo needs no scikit-learn and does not
depend on how one of its versions draws.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from dyt.demo.digits import FILE, TRAIN


def main() -> None:
    digits = load_digits()
    positions = np.arange(len(digits.target))
    train, _ = train_test_split(positions, train_size=TRAIN, random_state=0, stratify=digits.target)
    np.savez_compressed(
        Path(__file__).parents[1] / "src/dyt/demo" / FILE,
        images=digits.images.astype(np.uint8),
        labels=digits.target.astype(np.uint8),
        train=np.isin(positions, train),
    )


if __name__ == "__main__":
    main()
