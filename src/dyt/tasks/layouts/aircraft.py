"""`aircraft`: FGVC-Aircraft, data/variants.txt, data/images_variant_<split>.txt and data/images/.

An own reader, since torchvision's keeps the files' paths and labels private, takes no other root than the folder above
`fgvc-aircraft-2013b`, and does not name a wrong line or a missing image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from dyt.tasks.layouts.base import Layout, Split, by_name, home, known_name, read_list, read_names, relabelled


class Aircraft(Layout):
    """FGVC-Aircraft by variant. The line of text at the bottom of its images is left in them."""

    name: ClassVar[str] = "aircraft"
    train: ClassVar[tuple[str, ...]] = ("trainval", "train")
    test: ClassVar[tuple[str, ...]] = ("test", "val")
    choosing: ClassVar[tuple[tuple[str, str, str], ...]] = (("train", "val", "trainval"),)
    expected: ClassVar[str] = "FGVC-Aircraft (data/images_variant_trainval.txt, data/variants.txt, data/images/)"

    def has(self, root: Path, split: str) -> bool:
        return (_home(root) / f"images_variant_{split}.txt").is_file()

    def classes(self, root: Path, split: str) -> tuple[str, ...]:
        return read_names(_home(root) / "variants.txt")

    def split(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        own, images = self.classes(root, split), _home(root) / "images"
        index = {name: i for i, name in enumerate(own)}

        def entry(line: str) -> tuple[Path, int]:
            number, space, variant = line.strip().partition(" ")
            if not space:
                raise ValueError(f"'{line[:60]}' is not 'number variant'")
            return images / f"{number}.jpg", known_name(index, variant.strip(), "variants.txt")

        file = _home(root) / f"images_variant_{split}.txt"
        return relabelled(read_list(split, file, entry, "'number variant'", len(own)), by_name(own, classes, root))


def _home(root: Path) -> Path:
    return home(root, "fgvc-aircraft-2013b/data", "data")
