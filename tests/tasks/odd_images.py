"""Image files of every mode with the colour that each must come out as, and files that are no images."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

Size = tuple[int, int]
Colour = tuple[int, int, int]


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _deep(size: Size, value: int, kind: str) -> bytes:
    return _encoded(Image.fromarray(np.full(size[::-1], value, np.uint16)), kind)


def _palette(size: Size, transparent: bool) -> bytes:
    image = Image.new("P", size, 1)
    image.putpalette([0, 0, 0, 5, 60, 200])
    return _encoded(image, transparency=1) if transparent else _encoded(image)


MODES: dict[str, tuple[Callable[[Size], bytes], str, Colour]] = {
    "grey": (lambda size: _encoded(Image.new("L", size, 77)), "L", (77, 77, 77)),
    "grey with alpha": (lambda size: _encoded(Image.new("LA", size, (77, 0))), "LA", (255, 255, 255)),
    "RGBA": (lambda size: _encoded(Image.new("RGBA", size, (10, 20, 30, 255))), "RGBA", (10, 20, 30)),
    "RGBA, clear": (lambda size: _encoded(Image.new("RGBA", size, (10, 20, 30, 0))), "RGBA", (255, 255, 255)),
    "palette": (lambda size: _palette(size, False), "P", (5, 60, 200)),
    "palette, clear": (lambda size: _palette(size, True), "P", (255, 255, 255)),
    "16 bits": (lambda size: _deep(size, 100 * 257, "PNG"), "I;16", (100, 100, 100)),
    "16 bits, TIFF": (lambda size: _deep(size, 100 * 257, "TIFF"), "I;16", (100, 100, 100)),
    "CMYK": (
        lambda size: _encoded(Image.new("RGB", size, (200, 20, 20)).convert("CMYK"), "JPEG", quality=100),
        "CMYK",
        (200, 20, 20),
    ),
}
"""By name: the file's content for a size (width, height), its mode as PIL has it, the colour of every pixel."""

DAMAGES: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "missing": (lambda whole: None, r"no such file|no file|is not there|are not there|no image for"),
    "empty": (lambda whole: b"", "an empty file"),
    "truncated": (lambda whole: whole[: len(whole) * 2 // 3], "cannot be read"),
    "text": (lambda whole: b"no image at all", "not an image that PIL knows"),
}
"""By name: a file's content made of a whole one's, None for no file; what is said of it."""


def harm(file: Path, damage: str) -> None:
    """Damages an image file: what a noisy picture of its size is encoded to, so that a part is missed."""
    with Image.open(file) as image:
        width, height = image.size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    content = DAMAGES[damage][0](_encoded(Image.fromarray(noise)))
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)


def put(file: Path, mode: str) -> Colour:
    """Replaces an image file by one of another mode and the same size; the colour that it must come out as."""
    make, known, colour = MODES[mode]
    with Image.open(file) as image:
        size = image.size
    file.write_bytes(make(size))
    with Image.open(file) as image:
        assert image.mode == known, image.mode
    return colour
