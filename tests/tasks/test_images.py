"""Every kind of image becomes 8-bit RGB by rule; what cannot be read is answered by name."""

import re
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dyt
from dyt.tasks import ImageError, open_image, to_rgb
from dyt.tasks.bands import open_picture
from dyt.tasks.segmentation.layout import open_mask
from tasks.odd_images import MODES


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


def bomb(width: int, height: int) -> bytes:
    """A PNG of 70 bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    shape = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", shape) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def array_bomb(width: int, height: int) -> bytes:
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (height, width, 3)})
    return file.getvalue()


READERS: dict[str, Callable[[Path], Any]] = {
    "open_image": open_image,
    "grey": lambda path: open_picture(path, 1),
    "bands": lambda path: open_picture(path, 5),
    "bytes": lambda path: open_picture(BytesIO(path.read_bytes()), 3, str(path)),
    "mask": lambda path: open_mask(path, 3),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
@pytest.mark.parametrize("reader", READERS)
def test_too_many_pixels_are_refused_before_they_are_decoded(reader: str, side: int, tmp_path: Path) -> None:
    """PIL itself warns of the smaller, and refuses the larger in words of its own."""
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side, side))
    with pytest.raises(ImageError) as caught:
        READERS[reader](path)
    said = f"{side} x {side} = {side * side:,} pixels" if side == 10_000 else f"{side * side:,} pixels"
    assert f"{path}: {said}; at most 89,478,485 are read; make it smaller" in str(caught.value)


def test_too_many_pixels_where_warnings_are_errors(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(10_000, 10_000))
    with pytest.raises(ImageError, match=r"100,000,000 pixels; at most 89,478,485"):
        open_image(tmp_path / "bomb.png")


def test_the_limit_is_pil_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (6, 5)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.zeros((5, 6, 3), np.uint8))
    for limit in (30, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert {open_image(tmp_path / name).size for name in ("a.png", "a.npy")} == {(6, 5)}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29)
    with pytest.raises(ImageError, match=r"a\.npy: 6 x 5 = 30 pixels; at most 29 are read"):
        open_image(tmp_path / "a.npy")


def test_arrays_are_not_read_beyond_the_limit(tmp_path: Path) -> None:
    """Of one that says more than it has, nothing is reserved."""
    (tmp_path / "a.npy").write_bytes(array_bomb(10**6, 10**6))
    with pytest.raises(ImageError, match=r"a\.npy: cannot be read \(mmap length is greater than file size\)"):
        open_image(tmp_path / "a.npy")
    with (tmp_path / "a.npy").open("wb") as file:  # sparse: takes no room on the disk
        file.write(array_bomb(10**5, 10**5))
        file.truncate(file.tell() + 3 * 10**10)
    with pytest.raises(ImageError, match=r"100000 x 100000 = 10,000,000,000 pixels"):
        open_image(tmp_path / "a.npy")


def test_pages_beyond_the_channels_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [Image.new("L", (4, 4)) for _ in range(9)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert open_picture(tmp_path / "a.tif", 9).shape == (9, 4, 4)  # type: ignore[union-attr]
    with pytest.raises(ImageError, match="9 channels, but the model takes 5"):
        open_picture(tmp_path / "a.tif", 5)
    pages[1] = Image.new("L", (9, 9))
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    with pytest.raises(ImageError, match=r"9 x 9 = 81 pixels; at most 80"):
        open_picture(tmp_path / "b.tif", 9)


def test_one_file_opens_images() -> None:
    """So that the limit, and what is said of a damaged file, hold wherever an image is read."""
    sources = Path(dyt.__file__).parent
    users = [
        path for path in sources.rglob("*.py") if re.search(r"Image\.open\(|imread\(|decode_image\(", path.read_text())
    ]
    assert users == [sources / "tasks/images.py"]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["RGB", *MODES, "JPEG", "GIF", "WEBP", "pages", ".npy"])
def test_mutated_files_are_read_or_refused_by_name(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rng, file, answers = np.random.default_rng(11), BytesIO(), []
    noise = Image.fromarray(rng.integers(0, 256, (17, 23, 3), dtype=np.uint8))
    if kind in MODES:
        file.write(MODES[kind][0]((23, 17)))
    elif kind == ".npy":
        np.save(file, np.asarray(noise))
    elif kind == "pages":
        noise.save(file, "TIFF", save_all=True, append_images=[noise, noise])
    else:
        noise.save(file, "PNG" if kind == "RGB" else kind)
    path = tmp_path / f"a{kind if kind == '.npy' else '.png'}"
    for _ in range(600 if request.config.getoption("--full") else 12):
        content = bytearray(file.getvalue())
        for _ in range(rng.integers(1, 9)):
            end = min(len(content), 300) if rng.random() < 0.7 else len(content)
            content[int(rng.integers(end))] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)]))
        path.write_bytes(content[: int(rng.integers(1, len(content)))] if rng.random() < 0.2 else content)
        for channels in (3, 9):
            try:
                open_picture(path, channels)
            except ImageError as error:
                answers.append(str(error))
    assert len(answers) > 12
    assert not [line for line in answers if not line.startswith(str(path)) or len(line) > 700 or "\n" in line]
