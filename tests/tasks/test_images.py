"""Every kind of image becomes 8-bit RGB by rule; what cannot be read is answered by name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyt.tasks import ImageError, open_image, to_rgb


def pixel(image: Image.Image) -> tuple[int, ...]:
    assert image.mode == "RGB"
    found = image.getpixel((0, 0))
    assert isinstance(found, tuple)
    return found


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 257 * 9, np.uint16)), (9, 9, 9)),
        (Image.fromarray(np.full((2, 2), 257 * 9, np.int32)), (9, 9, 9)),
        (Image.new("CMYK", (2, 2), (0, 0, 0, 255)), (0, 0, 0)),
        (Image.new("RGB", (2, 2), (1, 2, 3)), (1, 2, 3)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_modes(image: Image.Image, expected: tuple[int, ...]) -> None:
    assert pixel(to_rgb(image)) == expected


def test_a_transparent_palette_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([5, 6, 7] * 256)
    image.save(tmp_path / "p.png", transparency=0)
    assert pixel(open_image(tmp_path / "p.png")) == (255, 255, 255)


def test_sixteen_bits_survive_a_file(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 3), 257 * 100, np.uint16)).save(tmp_path / "deep.png")
    assert pixel(open_image(tmp_path / "deep.png")) == (100, 100, 100)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (2, 4)


def test_floats_have_no_known_range() -> None:
    with pytest.raises(ImageError, match="without a known range"):
        to_rgb(Image.fromarray(np.zeros((2, 2), np.float32)))


def test_bad_files_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:300])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image at all")
    wrong = {"cut.jpg": "cannot be read", "empty.jpg": "empty", "text.jpg": "not an image", "none.jpg": "no such file"}
    for name, reason in {**wrong, ".": "directory"}.items():
        with pytest.raises(ImageError, match=reason) as caught:
            open_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
