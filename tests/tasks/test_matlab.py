"""MATLAB files: what SciPy reads of them, and of any damaged file a named error, whatever is damaged."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyt.tasks import DataError
from dyt.tasks.layouts.arrays import load_mat
from dyt.tasks.layouts.cars import Cars
from dyt.tasks.layouts.matlab import variables
from dyt.tasks.layouts.svhn import Svhn


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def variable(name: str, kind: int, shape: tuple[int, ...], content: bytes, order: str = "<", flags: int = 0) -> bytes:
    """An array as an element, written by the format's description."""
    heading = element(6, struct.pack(f"{order}II", kind | flags, 0), order)
    heading += element(5, struct.pack(f"{order}{len(shape)}i", *shape), order) + element(1, name.encode(), order)
    return element(14, heading + content, order)


def header(order: str = "<") -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + (b"\0\1IM" if order == "<" else b"\1\0MI")


def packed(whole: bytes) -> bytes:
    data = zlib.compress(whole)
    return struct.pack("<II", 15, len(data)) + data


def text(letters: str, order: str = "<", name: str = "") -> bytes:
    """As MATLAB writes it: 16-bit numbers."""
    data = letters.encode("utf-16-le" if order == "<" else "utf-16-be")
    return variable(name, 4, (1, len(data) // 2), element(4, data, order), order)


def cars(order: str = "<", compressed: bool = False) -> bytes:
    """Stanford Cars' annotations of two images, as MATLAB writes them: its numbers are double, stored in a byte."""
    fields = b"".join(name.encode().ljust(32, b"\0") for name in ("bbox_x1", "class", "fname"))
    values = b""
    for label, name in ((14, "00001.jpg"), (3, "00002.jpg")):
        number = 2 | 1 << 16
        small = struct.pack(f"{order}I", number) + bytes([label, 0, 0, 0])
        values += variable("", 6, (1, 1), small, order) * 2 + text(name, order)
    width = struct.pack(f"{order}I", 5 | 4 << 16) + struct.pack(f"{order}i", 32)
    made = variable("annotations", 2, (1, 2), width + element(1, fields, order) + values, order)
    return header(order) + (packed(made) if compressed else made)


def svhn(compressed: bool, count: int = 4) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, 32 * 32 * 3 * count, dtype=np.uint8).tobytes()
    x = variable("X", 9, (32, 32, 3, count), element(2, pixels))
    y = variable("y", 6, (count, 1), element(2, bytes(range(1, count + 1))))
    return header() + (packed(x) + packed(y) if compressed else x + y)


def names(third: str = "Ford") -> bytes:
    return header() + variable("class_names", 1, (1, 3), text("AM General") + text("Süß") + text(third))


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_annotations_of_cars(order: str, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(cars(order))
    (rows,) = load_mat(tmp_path / "a.mat", "annotations")
    assert [row["fname"] for row in rows] == ["00001.jpg", "00002.jpg"]
    assert [row["class"].tolist() for row in rows] == [[[14]], [[3]]]
    assert {row["class"].dtype.kind for row in rows} == {"u"}


def test_text_of_any_script(tmp_path: Path) -> None:
    """A character beyond 16 bits is two of MATLAB's. (SciPy garbles what is beyond 7.)"""
    (tmp_path / "a.mat").write_bytes(names("Ford 😀"))
    assert load_mat(tmp_path / "a.mat", "class_names") == (["AM General", "Süß", "Ford 😀"],)


def simple(value: Any) -> Any:
    """A value of SciPy's as `variables` has it."""
    if value.dtype.names:
        return [{name: simple(row[name]) for name in value.dtype.names} for row in value.ravel("F")]
    if value.dtype.kind == "O":
        return [simple(each) for each in value.ravel("F")]
    return str(value.item()) if value.dtype.kind == "U" and value.size else value


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[name], theirs[name]) for name in theirs)
    if isinstance(theirs, str):
        return bool(ours == theirs)
    if theirs.dtype.kind == "U":  # SciPy's empty text
        return len(ours) == 0
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and np.array_equal(ours, theirs)


VALUES: dict[str, Any] = {
    "images": np.random.default_rng(1).integers(0, 256, (4, 3, 3, 5), dtype=np.uint8),
    **{f"of_{kind}": np.array([[1, 2, 3]], kind) for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")},
    **{f"real_{kind}": np.array([[0.5], [-np.inf]], kind) for kind in ("f4", "f8")},
    "nothing": np.zeros((0, 3)),
    "text": "plain",
    "umlauts": "Süß 漢字",
    "empty_text": "",
    "cells": np.array([["a", np.arange(3)], [np.array([["b", 1.5]], object), "d"]], object),
    "structures": np.array([[(1, "x"), (np.eye(2), "yy")]], dtype=[("number", "O"), ("name", "O")]),
    "nested": {"inner": {"deep": np.arange(4, dtype=np.int16)}, "other": "z"},
}


@pytest.mark.parametrize("compressed", [False, True])
def test_valid_files_are_read_as_scipy_reads_them(compressed: bool, tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io", reason="scipy writes the files and reads them for comparison")
    scipy_io.savemat(tmp_path / "a.mat", VALUES, do_compression=compressed)
    theirs = scipy_io.loadmat(tmp_path / "a.mat")
    ours = variables(tmp_path / "a.mat", *VALUES)
    assert list(ours) == list(VALUES)
    assert not [name for name in VALUES if not same(ours[name], simple(theirs[name]))]


@pytest.mark.parametrize("content", [cars(), cars(">"), cars(compressed=True), svhn(False), svhn(True)])
def test_scipy_reads_our_files_of_the_test_alike(content: bytes, tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io", reason="scipy reads them for comparison")
    (tmp_path / "a.mat").write_bytes(content)
    theirs = {name: value for name, value in scipy_io.loadmat(tmp_path / "a.mat").items() if name[0] != "_"}
    ours = variables(tmp_path / "a.mat", *theirs)
    assert theirs
    assert all(same(ours[name], simple(theirs[name])) for name in theirs)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header()[:100], "no header of version 5 to 7"),
        (b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF", "of version 7.3, which is HDF5"),
        (struct.pack("<5I", 0, 1, 1, 0, 2) + b"X\0" + b"\0" * 200, "no header of version 5 to 7"),
        (header() + b"\1\0\0", "cut off: 3 bytes"),
        (header() + element(9, b"12345678"), "an element of type 9, where a variable"),
        (header() + struct.pack("<II", 14, 2**31), "cut off: a variable of 2147483648 bytes, and 0 are left"),
        (header() + text("a", name="X") * 2, "two variables are called 'X'"),
        (header() + variable("a b", 9, (1, 1), element(2, b"1")), "a variable whose name is none"),
        (header() + variable("X", 9, (1, 1, -1), element(2, b"1")), "dimensions (1, 1, -1)"),
        (header() + variable("X", 9, (2**31 - 1,) * 4, element(2, b"1")), "cut off: 1 bytes for 21267"),
        (header() + variable("X", 1, (2**31 - 1, 2), b""), "4294967294 arrays in 0 bytes"),
        (header() + variable("X", 2, (9, 9), element(5, b"\0\0\0\0") + element(1, b"a")), "field names, 0 each"),
        (header() + variable("X", 9, (1, 1), element(2, b"1"), flags=0x800), "complex numbers"),
        (header() + variable("X", 5, (1, 1), element(2, b"1")), "an array of class 5 (sparse, object or function)"),
        (header() + packed(variable("X", 9, (1, 1), element(2, b"1")) + b"more"), "is not the array of 64 bytes"),
        (header() + packed(variable("X", 9, (1, 1), element(2, b"1"))[:-8]), "is not the array of 64 bytes"),
        (header() + struct.pack("<II", 15, 4) + b"none", "incorrect header check"),
    ],
)
def test_what_is_no_such_file_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_mat(tmp_path / "a.mat", "X")
    assert str(tmp_path / "a.mat") in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_depth_has_an_end(tmp_path: Path) -> None:
    inside = variable("", 9, (1, 1), element(2, b"1"))
    for _ in range(3000):
        inside = variable("X", 1, (1, 1), inside)
    (tmp_path / "a.mat").write_bytes(header() + inside)
    with pytest.raises(DataError, match="nested more than 16 deep"):
        load_mat(tmp_path / "a.mat", "X")


def test_a_bomb_is_unpacked_no_further_than_it_says(tmp_path: Path) -> None:
    """A megabyte of zeros behind an array of 64 bytes."""
    (tmp_path / "a.mat").write_bytes(header() + packed(variable("X", 9, (1, 1), element(2, b"1")) + bytes(2**20)))
    with pytest.raises(DataError, match="is not the array of 64 bytes"):
        load_mat(tmp_path / "a.mat", "X")


def test_what_is_not_wanted_is_not_understood_either(tmp_path: Path) -> None:
    """An object of MATLAB's beside the array: its flags, three texts, and what has no name."""
    flags = element(6, struct.pack("<II", 17, 0)) + element(1, b"thing") + element(1, b"MCOS") + element(1, b"table")
    unnamed = variable("", 9, (1, 8), element(2, bytes(8)))
    whole = element(14, flags + unnamed) + variable("X", 9, (1, 1), element(2, b"7")) + unnamed
    (tmp_path / "a.mat").write_bytes(header() + whole)
    assert load_mat(tmp_path / "a.mat", "X")[0].tolist() == [[ord("7")]]
    with pytest.raises(DataError, match="an array of class 17"):
        load_mat(tmp_path / "a.mat", "thing")


def mutated(whole: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bytes changed, most of them in the first half kilobyte behind the header; or cut, or grown."""
    content = bytearray(whole)
    for _ in range(rng.integers(1, 9)):
        end = min(len(content), 640) if rng.random() < 0.7 else len(content)
        content[int(rng.integers(120, end))] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)]))
    if rng.random() < 0.2:
        del content[int(rng.integers(1, len(content))) :]
    return bytes(content) + (rng.bytes(int(rng.integers(1, 99))) if rng.random() < 0.1 else b"")


@pytest.mark.parametrize("name", ["cars", "cars, compressed", "names", "svhn", "svhn, compressed"])
def test_mutated_files_are_read_or_refused_by_name(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Through the layouts. In this process: a crash would end the whole run."""
    whole = {"cars": cars(), "cars, compressed": cars(compressed=True), "names": names()}.get(name)
    whole = svhn("compressed" in name) if whole is None else whole
    rng, answers = np.random.default_rng(7), []
    for folder in ("devkit", "cars_train"):
        (tmp_path / folder).mkdir()
    for image in ("00001.jpg", "00002.jpg"):
        (tmp_path / "cars_train" / image).touch()
    (tmp_path / "devkit/cars_meta.mat").write_bytes(header() + variable("class_names", 1, (1, 20), text("a") * 20))
    for _ in range(5000 if request.config.getoption("--full") else 150):
        content = mutated(whole, rng)
        try:
            if name == "names":
                (tmp_path / "devkit/cars_meta.mat").write_bytes(content)
                assert all(isinstance(each, str) for each in Cars().classes(tmp_path, "train"))
            elif "cars" in name:
                (tmp_path / "devkit/cars_train_annos.mat").write_bytes(content)
                assert all(0 <= label < 20 for label in Cars().split(tmp_path, "train", None).labels)
            else:
                (tmp_path / "train_32x32.mat").write_bytes(content)
                assert all(0 <= label < 10 for label in Svhn().split(tmp_path, "train", None).labels)
        except DataError as error:
            answers.append(str(error))
    assert len(answers) > 20
    assert not [line for line in answers if str(tmp_path) not in line or len(line) > 1000 or "\n" in line]
