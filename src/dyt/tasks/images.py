"""Image files of every kind -> 8-bit RGB, by rule; a file that cannot be read, or is too large, is answered by name.

How many pixels a file may have is PIL's own limit, `PIL.Image.MAX_IMAGE_PIXELS`, for every reader of this library.
"""

from __future__ import annotations

import re
import struct
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dyt.errors import DyTError
from dyt.writing import whole

Converted = TypeVar("Converted")
ARRAY = ".npy"
"""The ending of NumPy's files, of which arrays (H, W) and (H, W, C) of 8 or 16 bits are images."""


REFUSED = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, RuntimeError, TypeError, LookupError),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
"""What PIL's decoders answer damaged files with; the warning where warnings are errors."""


class ImageError(DyTError):
    """A file that is missing, empty, cut off, too large, or no image; the message has its name."""


def save_image(image: Image.Image, path: Path) -> None:
    """Writes an image to a file, in the format of its ending, whole or not at all.

    Raises:
        ImageError: it cannot be written.
    """
    with whole(path, ImageError) as draft:
        image.save(draft)


def check_pixels(width: int, height: int, name: str, kind: type[DyTError] = ImageError) -> None:
    """Refuses a picture that takes too much memory when decoded, before it is.

    Args:
        width: as the file says, in pixels.
        height: as the file says, in pixels.
        name: the file's, for the error.
        kind: of the error.

    Raises:
        kind: more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, where that is not None.
    """
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise kind(_too_large(f"{width} x {height} = {width * height:,}", name))


def _too_large(pixels: str, name: str) -> str:
    return (
        f"{name}: {pixels} pixels; at most {Image.MAX_IMAGE_PIXELS or 0:,} are read; make it smaller, leave it out of "
        f"the data, or, if you trust it, set PIL.Image.MAX_IMAGE_PIXELS higher"
    )


def open_image(source: str | Path | IO[bytes], name: str | None = None) -> Image.Image:
    """Opens an image as `to_rgb` has it.

    Args:
        source: a path, or an open binary file.
        name: what to call it in an error; the path by default.

    Raises:
        ImageError: missing, empty, cut off, too large, not an image, or of a mode that has no known range.
    """
    name = str(source) if name is None else name
    if isinstance(source, (str, Path)) and Path(source).suffix.lower() == ARRAY:
        values = read_array(Path(source), name)
        if values.shape[2] not in {1, 3}:
            raise ImageError(f"{name}: {values.shape[2]} channels; of an RGB image an array has 3, of a grey one 1")
        return to_rgb(Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values), name)
    return loaded(source, to_rgb, name)


def loaded(source: str | Path | IO[bytes], convert: Callable[[Image.Image, str], Converted], name: str) -> Converted:
    """The image in a file, decoded whole and converted while the file is open; `convert` is given image and name.

    Raises:
        ImageError: missing, empty, cut off, too large, or not an image.
    """
    if isinstance(source, (str, Path)):
        _check_there(Path(source), name)
    try:
        with Image.open(source) as image:
            check_pixels(*image.size, name)
            image.load()
            return convert(image, name)
    except REFUSED as error:
        if isinstance(error, DyTError):
            raise
        if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
            pixels = re.search(r"\d+", str(error))
            raise ImageError(_too_large(f"{int(pixels[0]):,}" if pixels else "too many", name)) from error
        reason = " ".join(str(error).split())[:300]
        reason = "not an image that PIL knows" if isinstance(error, UnidentifiedImageError) else reason
        raise ImageError(f"{name}: cannot be read ({reason}); replace it, or leave it out of the data") from error


def _check_there(path: Path, name: str) -> None:
    if not path.is_file():
        raise ImageError(f"{name}: {'a directory' if path.is_dir() else 'no such file'}; an image file was expected")
    if path.stat().st_size == 0:
        raise ImageError(f"{name}: an empty file; replace it, or leave it out of the data")


def read_array(path: Path, name: str) -> np.ndarray:
    """(H, W, C) uint8 of an array (H, W) or (H, W, C) in NumPy's format, 16 bits scaled to 8; never unpickled.

    Raises:
        ImageError: missing, empty, cut off, too large, no such file, or another array.
    """
    _check_there(path, name)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # reads its shape alone
    except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ImageError(f"{name}: cannot be read ({reason}); replace it, or leave it out of the data") from error
    if not isinstance(values, np.ndarray) or values.ndim not in {2, 3} or values.dtype not in (np.uint8, np.uint16):
        given = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else "several arrays"
        raise ImageError(f"{name}: {given}; expected uint8 or uint16, (H, W) or (H, W, C)")
    if not values.size:
        raise ImageError(f"{name}: an array {values.shape} without pixels; leave it out of the data")
    check_pixels(values.shape[1], values.shape[0], name)
    values = np.array(values)
    scaled = values if values.dtype == np.uint8 else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return scaled[:, :, None] if scaled.ndim == 2 else scaled


def to_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """8-bit RGB, upright.

    EXIF orientation is applied, grey repeated, transparency laid over white, 16 bits scaled to 8.

    CMYK, YCbCr, LAB, HSV and palette images are converted by PIL.

    Raises:
        ImageError: 32-bit integer or float images, whose range is not known, unless integers fit 16 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return eight_bits(image, name).convert("RGB")
    if image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def eight_bits(image: Image.Image, name: str) -> Image.Image:
    """A grey image of 16 bits, or of integers that fit them, scaled to 8 bits.

    Raises:
        ImageError: other pixels, whose range is not known.
    """
    values = np.asarray(image)
    if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ImageError(f"{name}: {image.mode} pixels without a known range; save it with 8 or 16 bits per channel")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
