"""Reading the one kind of pickle that published image data needs without running anything that stands in it.

A pickle names functions and calls them. Here none of those names leads to real code: what NumPy's arrays are made with
is replaced by stand-ins that only remember what they were given, and every other name is refused. The arrays are made
from what was remembered, after it has been checked.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dyt.tasks.layouts.base import DataError, contents_of


class _Remembered:
    """Stands for an array or a dtype: what it was made with, and the state that it was then given."""

    def __init__(self, *made: Any) -> None:
        self.made, self.state = made, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ArrayType:
    """Stands for `numpy.ndarray`, which is named in the pickle and never called."""

    def __init__(self, *made: Any) -> None:
        raise pickle.UnpicklingError("an array that is made by numpy.ndarray itself")


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """Stands for `_codecs.encode`, with which Python 3 writes bytes into a pickle of Python 2's protocol."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("an encoding other than latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stands for `bytes`, with which Python 3 writes empty ones into such a pickle."""
    return b""


STANDS_FOR: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _Remembered,
    ("numpy.core.multiarray", "_reconstruct"): _Remembered,
    ("numpy._core.multiarray", "_reconstruct"): _Remembered,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STANDS_FOR:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image data needs")
        return STANDS_FOR[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside of it")


def load_pickle(file: Path) -> dict[str, Any]:
    """The mapping in a pickle of plain values and uint8 arrays, keys and texts as str. Nothing in it is run.

    Raises:
        DataError: missing, empty, damaged, not a mapping, or a pickle that wants to run something.
    """
    if not file.is_file():
        raise DataError(f"no file '{file}'; {file.parent} has {contents_of(file.parent)}")
    if file.stat().st_size == 0:
        raise DataError(f"{file}: an empty file; download it again")
    try:
        with file.open("rb") as stream:
            value = _Unpickler(stream, encoding="latin1").load()
    # damaged pickles are answered with any of these
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        MemoryError,
        ImportError,
        UnicodeDecodeError,
    ) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file}: refused or damaged ({reason}); download it again from its publisher") from error
    if not isinstance(value, dict):
        raise DataError(f"{file}: a pickle of {type(value).__name__}; expected a mapping")
    return {_text(key): entry for key, entry in value.items()}


def bytes_array(value: Any, what: str) -> npt.NDArray[np.uint8]:
    """The uint8 array that was remembered.

    Raises:
        DataError: no array, one of another dtype, in Fortran's order, or cut off.
    """
    match value:
        case _Remembered(state=(_, tuple() as shape, _Remembered(made=(str() | bytes() as kind, *_)), order, raw)):
            pass
        case _:
            raise DataError(f"{what} is no array as NumPy pickles it")
    if _text(kind) != "u1" or order:
        raise DataError(f"{what} is an array of '{_text(kind)}'{' in Fortran order' if order else ''}; expected uint8")
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    sound = all(isinstance(n, int) and n >= 0 for n in shape)
    if not isinstance(data, bytes) or not sound or prod(shape) != len(data):
        raise DataError(f"{what}: shape {shape} does not fit its data; is the file whole?")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
