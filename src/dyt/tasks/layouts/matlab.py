"""MATLAB's files of version 5 to 7, as far as data sets have them: arrays of numbers, text, cells and structures.

A strict reader of our own, which checks every count against the bytes that are there. SciPy's reader takes far more
kinds, but ends the process on some damaged files, and garbles text that MATLAB wrote beyond ASCII.

The format is MathWorks' `MAT-File Format`. An element is a tag (type, number of bytes) and data, padded to 8 bytes. A
variable is an element of elements (flags, dimensions, name, content), and may be compressed as a whole.
"""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

Numbers: TypeAlias = np.ndarray[Any, Any]
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
ENCODINGS = {1: "utf-8", 2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
"""Types of elements, as NumPy and Python call what is in them; MATLAB itself writes text as 16-bit numbers."""
I4, U4, ARRAY, COMPRESSED = 5, 6, 14, 15
CELLS, STRUCTURE, TEXT, NUMERIC, OBJECT = 1, 2, 4, range(6, 16), 17
COMPLEX = 0x0800
NAME = re.compile(rb"[A-Za-z]\w{0,62}|", re.ASCII)
"""MATLAB's names; what it adds for objects has none."""
HEADER, DEEPEST = 128, 16
FIRST = 4096
"""So many bytes of a compressed variable are unpacked to learn its name, of at most 63 characters."""


def variables(path: Path, *wanted: str) -> dict[str, Any]:
    """The variables of a file by name; those that are not wanted are None.

    Numbers are arrays of MATLAB's shape, in the dtype in which they are stored. Text of one row is `str`. Cells are a
    list, and structures a list of mappings, in MATLAB's order, columns first.

    Raises:
        ValueError: damaged, of another version, or of a kind that is not read; the message is the reason alone.
        zlib.error: damaged inside a compressed variable.
    """
    found: dict[str, Any] = {}
    with path.open("rb") as file:
        order, size = _byte_order(file.read(HEADER)), path.stat().st_size
        while tag := file.read(8):
            kind, count = map(int, _numbers(tag, U4, order, 2))
            if kind not in {ARRAY, COMPRESSED}:
                raise ValueError(f"an element of type {kind}, where a variable was expected")
            if count > size - file.tell():
                raise ValueError(f"cut off: a variable of {count} bytes, and {size - file.tell()} are left")
            name, value = _variable(file, kind == COMPRESSED, count, order, wanted)
            if name in found:
                raise ValueError(f"two variables are called '{name}'")
            found[name] = value
    return found


def _byte_order(header: bytes) -> str:
    """`<` or `>`."""
    if b"MATLAB 7.3" in header or header.startswith(b"\x89HDF"):
        raise ValueError("of version 7.3, which is HDF5; versions 5 to 7 are read, which MATLAB's `save -v7` writes")
    order = {b"\0\1IM": "<", b"\1\0MI": ">"}.get(header[124:128])
    if order is None:
        raise ValueError("no header of version 5 to 7")
    return order


def _variable(file: BinaryIO, compressed: bool, count: int, order: str, wanted: tuple[str, ...]) -> tuple[str, Any]:
    content = file.read(count)
    first = zlib.decompressobj().decompress(content, FIRST)[8:] if compressed else content
    name = _Part(first, order).heading()[2]
    if name not in wanted:
        return name, None
    return name, _array(_Part(_unpacked(content, order) if compressed else content, order))


def _unpacked(content: bytes, order: str) -> bytes:
    """The data of the one array that is compressed in `content`, never more than its tag says."""
    unpacking = zlib.decompressobj()
    kind, length = map(int, _numbers(unpacking.decompress(content, 8), U4, order, 2))
    data = unpacking.decompress(unpacking.unconsumed_tail, length + 1) if kind == ARRAY else b""
    unpacking.decompress(unpacking.unconsumed_tail, 1)  # has zlib compare its checksum
    if len(data) != length or not unpacking.eof or unpacking.unused_data:
        raise ValueError(f"a compressed variable is not the array of {length} bytes that it says it is")
    return data


class _Part:
    """Bytes that are read from the front."""

    def __init__(self, content: bytes | memoryview, order: str) -> None:
        self.left, self.order = memoryview(content), order

    def element(self, *kinds: int) -> tuple[int, memoryview]:
        """(type, data) of the next element, which must be of one of the types, if some are given."""
        kind, count = map(int, _numbers(self.left[:8], U4, self.order, 2))
        start, end = 8, 8 + count + -count % 8
        if kind >> 16:  # a small one: its bytes, up to four, are in the tag itself
            kind, count, start, end = kind & 0xFFFF, kind >> 16, 4, 8
        if kinds and kind not in kinds:
            raise ValueError(f"an element of type {kind}, where type {' or '.join(map(str, kinds))} was expected")
        if count > min(end, len(self.left)) - start:
            raise ValueError(f"an element of {count} bytes, and {min(end, len(self.left)) - start} are left")
        data, self.left = self.left[start : start + count], self.left[end:]
        return kind, data

    def numbers(self, kind: int, count: int | None = None) -> Numbers:
        return _numbers(self.element(kind)[1], kind, self.order, count)

    def heading(self) -> tuple[int, tuple[int, ...], str]:
        """(flags, dimensions, name)."""
        flags = int(self.numbers(U4, 2)[0])
        shape = (0, 0) if flags & 0xFF == OBJECT else tuple(map(int, self.numbers(I4)))
        if not 2 <= len(shape) <= 32 or min(shape) < 0:
            raise ValueError(f"an array with dimensions {shape[:32]}")
        name = bytes(self.element()[1])
        if not NAME.fullmatch(name):
            raise ValueError("a variable whose name is none")
        return flags, shape, name.decode("ascii")

    def arrays(self, count: int, depth: int) -> list[Any]:
        """The next so many arrays."""
        if count > len(self.left) // 8:  # each has a tag
            raise ValueError(f"{count} arrays in {len(self.left)} bytes")
        return [_array(_Part(self.element(ARRAY)[1], self.order), depth) for _ in range(count)]


def _array(part: _Part, depth: int = 0) -> Any:
    if not part.left:  # how an empty one is left out
        return np.zeros((0, 0))
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    flags, shape, _ = part.heading()
    kind, count = flags & 0xFF, math.prod(shape)
    if kind == CELLS:
        return part.arrays(count, depth + 1)
    if kind == STRUCTURE:
        width, names = int(part.numbers(I4, 1)[0]), bytes(part.element()[1])
        if width < 1 or not names or len(names) % width:
            raise ValueError(f"{len(names)} bytes of field names, {width} each")
        fields = [names[i : i + width].split(b"\0")[0].decode("ascii") for i in range(0, len(names), width)]
        values, step = part.arrays(count * len(fields), depth + 1), len(fields)
        return [dict(zip(fields, values[i : i + step], strict=True)) for i in range(0, len(values), step)]
    if kind == TEXT:
        return _text(part, shape)
    if kind in NUMERIC and not flags & COMPLEX:
        stored, data = part.element()
        return _numbers(data, stored, part.order, count).reshape(shape, order="F")
    what = "complex numbers" if kind in NUMERIC else f"an array of class {kind} (sparse, object or function)"
    raise ValueError(f"{what}; only real numbers, text, cells and structures are read")


def _text(part: _Part, shape: tuple[int, ...]) -> str:
    kind, data = part.element(*ENCODINGS)
    bits = ENCODINGS[kind].removeprefix("utf-")
    text = bytes(data).decode("utf-8" if bits == "8" else f"utf-{bits}-{'le' if part.order == '<' else 'be'}")
    units = len(text.encode("utf-16-le")) // 2  # what MATLAB counts
    if math.prod(shape) not in {len(text), units} or (text and shape[0] != 1):
        raise ValueError(f"text of {len(text)} characters with dimensions {shape}; only one row is read")
    return text


def _numbers(data: bytes | memoryview, kind: int, order: str, count: int | None = None) -> Numbers:
    """(count,) numbers of an element's data; without a count as many as there are."""
    if kind not in NUMBERS:
        raise ValueError(f"numbers in an element of type {kind}")
    dtype = np.dtype(order + NUMBERS[kind])
    if len(data) % dtype.itemsize or count not in {None, len(data) // dtype.itemsize}:
        raise ValueError(f"cut off: {len(data)} bytes for {'numbers' if count is None else count} of {dtype.name}")
    return np.frombuffer(data, dtype)
