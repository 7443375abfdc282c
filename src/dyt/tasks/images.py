"""Image files of every kind -> 8-bit RGB, by rule; a file that cannot be read is answered by name in one line."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dyt.errors import DyTError


class ImageError(DyTError):
    """A file that is missing, empty, cut off, or no image; the message has its name."""


def open_image(source: str | Path | IO[bytes], name: str | None = None) -> Image.Image:
    """Opens an image as `to_rgb` has it.

    Args:
        source: a path, or an open binary file.
        name: what to call it in an error; the path by default.

    Raises:
        ImageError: missing, empty, cut off, not an image, or of a mode that has no known range.
    """
    return loaded(source, to_rgb, str(source) if name is None else name)


def loaded(
    source: str | Path | IO[bytes], convert: Callable[[Image.Image, str], Image.Image], name: str
) -> Image.Image:
    """The image in a file, decoded whole and converted while the file is open; `convert` is given image and name.

    Raises:
        ImageError: missing, empty, cut off, or not an image.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise ImageError(
                f"{name}: {'a directory' if path.is_dir() else 'no such file'}; an image file was expected"
            )
        if path.stat().st_size == 0:
            raise ImageError(f"{name}: an empty file; replace it, or leave it out of the data")
    try:
        with Image.open(source) as image:
            image.load()
            return convert(image, name)
    # PIL's decoders answer damaged files with any of these
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        if isinstance(error, DyTError):
            raise
        reason = "not an image that PIL knows" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ImageError(f"{name}: cannot be read ({reason}); replace it, or leave it out of the data") from error


def to_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """8-bit RGB, upright.

    EXIF orientation is applied, grey repeated, transparency laid over white, 16 bits scaled to 8.

    CMYK, YCbCr, LAB, HSV and palette images are converted by PIL.

    Raises:
        ImageError: 32-bit integer or float images, whose range is not known, unless integers fit 16 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_16_bits(image, name).convert("RGB")
    if image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ImageError(f"{name}: {image.mode} pixels without a known range; save it with 8 or 16 bits per channel")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
