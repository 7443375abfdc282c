"""Tensors and metadata as a safetensors file, with the same bytes for the same content."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dyt.errors import CheckpointError


def write(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Writes the file in place; tensors are sorted by safetensors, by dtype and name.

    Raises:
        OSError: it could not be written, as on a full disk.
        CheckpointError: safetensors refused it.
    """
    try:
        save_file(dict(tensors), path, dict(metadata))
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is not None:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise CheckpointError(f"cannot write {path.name!r}: {' '.join(str(error).split())[:300]}") from error
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """safetensors writes its entries in an order that differs from save to save."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > size:
            raise CheckpointError(f"cannot write {path.name!r}: its header of {size} bytes has become {len(text)}")
        file.seek(8)
        file.write(text.ljust(size))
