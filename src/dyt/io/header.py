"""What a saved file says before any of its tensors is read: its metadata, and names, shapes and dtypes of its tensors.

A file may be from anyone. Its text is bounded, shallow and plain when it leaves here, also in what is said of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dyt.errors import CheckpointError, shortened
from dyt.model.origin import CHECKSUM, checksum

FORMAT, VERSION = "dyt", "1"
LONGEST = 1 << 24
"""Characters of a metadata entry: the names of a few hundred thousand classes."""
DEEPEST = 32
"""Levels of lists and mappings within one another in an entry's JSON; a spec has five."""
SAID = 600
"""Characters of a message that a file's own words may be in."""
DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    **{f"U{bits}": getattr(torch, f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"I{bits}": getattr(torch, f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": getattr(torch, f"float{bits}") for bits in (16, 32, 64)},
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""The dtypes that a model can have, by the names of safetensors."""


def refusal(path: str | Path, what: str) -> CheckpointError:
    """The error about a file, in one bounded line, whatever the file's own words in it are."""
    text = f"'{path}'{what}" if what.startswith(":") else f"'{path}' {what}"
    return CheckpointError(shortened(text, SAID + len(str(path))))


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        path: the file.
        metadata: its entries.
        tensors: its tensors without values, on the meta device.
    """

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    @property
    def widest(self) -> int:
        """The largest dimension of any tensor."""
        return max((side for tensor in self.tensors.values() for side in tensor.shape), default=0)

    def decoded(self, entry: str, default: str | None = None) -> Any:
        """The JSON of a metadata entry.

        Raises:
            CheckpointError: no such entry without a default; no JSON; or one that is too long, too deep, or has numbers
                that are not finite.
        """
        text = self.metadata.get(entry, default)
        if text is None:
            raise refusal(self.path, f": its {entry} cannot be used: there is none")
        return decoded(text, entry, self.path)


def decoded(text: str, entry: str, path: str | Path) -> Any:
    """The JSON that a file has as its `entry`.

    Raises:
        CheckpointError: no JSON; or one that is too long, too deep, or has numbers that are not finite.
    """
    try:
        if len(text) > LONGEST:
            raise ValueError(f"it has {len(text)} characters; at most {LONGEST}")
        return _shallow(json.loads(text, parse_constant=_no_number, parse_float=_finite))
    except RecursionError as error:
        raise refusal(path, f": its {entry} cannot be used: it is nested too deep") from error
    except ValueError as error:
        raise refusal(path, f": its {entry} cannot be used: {error}") from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number here; give finite ones")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text[:20])


def _shallow(value: Any) -> Any:
    level, depth = [value], 0
    while level:
        if depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
        inside = [list(each.values()) if isinstance(each, dict) else each for each in level]
        level = [part for each in inside if isinstance(each, list) for part in each if isinstance(part, (dict, list))]
        depth += 1
    return value


def read_header(path: Path) -> Header:
    """The header of a saved file; none of its tensors is read.

    Raises:
        CheckpointError: no file, no safetensors file, not from `dyt.save`, or of another version.
    """
    header = read_any_header(path)
    metadata = header.metadata
    if metadata.get("format") != FORMAT:
        raise refusal(path, "was not written by dyt.save; plain weights go into backbone.weights of a spec")
    if metadata.get("version") != VERSION:
        given = str(metadata.get("version"))[:20]
        raise refusal(path, f"has format version {given}, this dyt reads {VERSION}; upgrade dyt")
    return header


def read_any_header(path: Path) -> Header:
    """The header of a safetensors file, whoever wrote it; none of its tensors is read.

    Raises:
        CheckpointError: no file, no safetensors file, or tensors of a dtype that no model has.
    """
    if not path.is_file():
        raise CheckpointError(f"no file '{path}'")
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            said = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            shapes = {key: (tuple(each.get_shape()), each.get_dtype()) for key, each in said.items()}
    except (SafetensorError, OSError) as error:
        raise refusal(path, f"is not a safetensors file, or is cut off: {error}") from error
    for key, (_, dtype) in shapes.items():
        if dtype not in DTYPES:
            raise refusal(path, f"has a tensor of dtype {dtype} ({key}); allowed: {', '.join(DTYPES)}")
    tensors = {key: torch.empty(shape, dtype=DTYPES[dtype], device="meta") for key, (shape, dtype) in shapes.items()}
    return Header(path, metadata, tensors)


def read_tensors(header: Header) -> dict[str, Tensor]:
    """The tensors of a file whose header has been read.

    Raises:
        CheckpointError: another file by now, or a checksum that does not match.
    """
    tensors = read_any_tensors(header)
    if header.metadata.get(CHECKSUM) != checksum(tensors, header.metadata):
        raise refusal(header.path, "is damaged: its checksum does not match; copy or download it again")
    return tensors


def read_any_tensors(header: Header) -> dict[str, Tensor]:
    """As `read_tensors`, of a file that has no checksum.

    Raises:
        CheckpointError: another file by now.
    """
    try:
        with safe_open(header.path, "pt") as file:
            return {key: file.get_tensor(key) for key in header.tensors}
    except (SafetensorError, OSError) as error:
        raise refusal(header.path, f"is not a safetensors file, or is cut off: {error}") from error


def is_threshold(key: str) -> bool:
    """Whether a stored key is a site's threshold, which is float32 in any model, and older files have in its dtype."""
    return key.startswith("sites.") and key.endswith(".threshold")
