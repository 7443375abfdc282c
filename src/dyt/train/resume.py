"""The resume checkpoint: a safetensors file with a schema and a checksum over all of it. Read whole, or refused.

No state of a random generator is in it: what a step draws is a function of the seed and the step's number.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dyt.config.base import Spec
from dyt.config.explained import explain
from dyt.errors import shortened
from dyt.io import tensor_file
from dyt.model.origin import CHECKSUM, checksum
from dyt.train.evaluation import Evaluation
from dyt.train.nested import put_together, taken_apart
from dyt.train.state import RunError
from dyt.train.surroundings import Surroundings
from dyt.writing import whole

FORMAT, VERSION = "dyt-resume", "1"
MODEL, SUMS = "model.", "sums"
"""What tensors are called: those of the model begin with the first; the epoch's sums so far are the second."""
Whole = Annotated[int, Field(ge=0, strict=True)]
NotNegative = Annotated[float, Field(ge=0.0)]


class Row(Spec):
    """A line of metrics.jsonl."""

    epoch: Annotated[int, Field(ge=1, strict=True)]
    """Number of the epoch, from 1."""
    step: Annotated[int, Field(ge=1, strict=True)]
    """Number of steps done at its end."""
    loss: float
    """Mean of the loss over the epoch's steps, under training noise, as the following are."""
    cls: float
    """Mean of the head's loss."""
    complete: float
    """Mean of the complete pass's loss."""
    distill: float
    """Mean of the divergence."""
    features: float
    """Mean of the distance of features."""
    rate: float
    """Mean of the rate term, unweighted."""
    accuracy: float | None
    """Share of right classes, in [0, 1]."""
    active_rate: Annotated[float, Field(ge=0.0, le=1.0)]
    """Share of active patch tokens."""
    active_rates: dict[str, float]
    """The same share for each site."""
    lr: NotNegative
    """Learning rate of the epoch's last step."""
    images_per_second: NotNegative
    """Training images per second."""
    seconds: NotNegative
    """Duration of the epoch."""
    test: Evaluation | None = None
    """The evaluation on the test split, where there was one."""


class Header(Spec):
    """Everything of a checkpoint but its tensors."""

    step: Whole
    """Number of optimiser steps done."""
    steps: Whole
    """Number of steps of the whole run."""
    per_epoch: Annotated[int, Field(ge=1, strict=True)]
    """Number of steps of an epoch."""
    run: dict[str, Any]
    """The run's spec, whole."""
    surroundings: Surroundings
    """What else its result depends on."""
    rows: tuple[dict[str, Any], ...]
    """The lines of metrics.jsonl."""
    seconds: NotNegative
    """Duration of the run so far."""
    optimizer: Any
    """State of the optimiser, its tensors by name."""
    scaler: Any
    """State of the gradient scaler; null without one."""
    crcs: dict[str, int]
    """CRC-32 of each tensor, by name, so that damage and mixed-up tensors are told by name."""


class NotFiniteError(RunError):
    """A state that is not worth keeping."""


@dataclass(frozen=True)
class State:
    """A checkpoint as the training loop gives and takes it.

    Attributes:
        header: with `optimizer`, `scaler` and `crcs` as the file has them.
        tensors: of the model, by stored key.
        sums: of the epoch so far, over all processes.
        optimizer, scaler: state dicts.
    """

    header: Header
    tensors: Mapping[str, Tensor]
    sums: Tensor
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any] | None


def write_state(
    path: Path,
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    sums: Tensor,
    optimizer: Any,
    scaler: Any,
    infinite: frozenset[str],
) -> None:
    """Writes a checkpoint in the place of the one before, which stays until the new one is whole on the disk.

    Args:
        header: the fields of `Header` but for those that are found here.
        infinite: keys of the model's tensors that may have values that are not finite, as they had from the first.

    Raises:
        RunError: a value that is not finite, by name; or a disk that cannot be written. The old file is as it was.
    """
    flat = {f"{MODEL}{key}": tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    flat[SUMS] = sums.detach().to("cpu", copy=True)
    plain = taken_apart(optimizer, "optimizer", flat)
    made = Header(
        **header,
        optimizer=plain,
        scaler=taken_apart(scaler, "scaler", flat),
        crcs={name: _crc(tensor) for name, tensor in flat.items()},
    )
    wrong = _not_finite(flat, infinite)
    if wrong is not None:
        raise NotFiniteError(f"after step {made.step} of {made.steps} '{wrong}' has values that are not finite")
    metadata = {"format": FORMAT, "version": VERSION, "header": json.dumps(made.model_dump(mode="json"))}
    metadata[CHECKSUM] = checksum(flat, metadata)
    try:
        with whole(path, RunError) as draft:
            tensor_file.write(flat, metadata, draft)
    except RunError as error:
        raise RunError(f"the state after step {made.step} is lost: {error}") from error


def read_state(path: Path, infinite: frozenset[str] = frozenset()) -> State:
    """Reads a checkpoint. Whether it is one of this run is for `State`'s reader to see.

    Raises:
        RunError: damaged, cut off, of another format or version, or against the schema: what, in one line.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise broken(path, f"is not a safetensors file, or is cut off ({shortened(error)})") from error
    if metadata.get("format") != FORMAT:
        raise broken(path, "is not a resume checkpoint")
    if metadata.get("version") != VERSION:
        raise RunError(
            f"'{path}' has format version {metadata.get('version', 'none')[:20]}, this dyt reads {VERSION}; go on with "
            f"the dyt that wrote it, or give --fresh to start anew"
        )
    if metadata.get(CHECKSUM) != checksum(flat, metadata):
        raise broken(path, "is damaged: its checksum does not match")
    try:
        header = Header.model_validate(json.loads(metadata["header"]))
        for row in header.rows:
            Row.model_validate(row)
    except KeyError as error:
        raise broken(path, f"has no {error}") from error
    except (ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        reason = explain(error) if isinstance(error, ValidationError) else error
        raise broken(path, f"does not fit its schema ({shortened(reason)})") from error
    return _state(path, header, flat, infinite)


def _state(path: Path, header: Header, flat: dict[str, Tensor], infinite: frozenset[str]) -> State:
    mixed = sorted(name for name in header.crcs.keys() & flat.keys() if header.crcs[name] != _crc(flat[name]))
    mixed += sorted(header.crcs.keys() ^ flat.keys())
    if mixed:
        raise broken(path, f"is damaged: tensor '{mixed[0][:80]}' is not the one that was saved")
    wrong = _not_finite(flat, infinite)
    if wrong is not None:
        raise broken(path, f"has values in '{wrong[:80]}' that are not finite")
    tensors = {name.removeprefix(MODEL): flat.pop(name) for name in sorted(flat) if name.startswith(MODEL)}
    sums = flat.pop(SUMS, None)
    try:
        optimizer = put_together(header.optimizer, "optimizer", flat)
        scaler = put_together(header.scaler, "scaler", flat)
    except (ValueError, RecursionError) as error:
        raise broken(path, f"has a state that cannot be used ({shortened(error)})") from error
    if sums is None or flat or not isinstance(optimizer, dict) or not isinstance(scaler, dict | None):
        raise broken(path, "has tensors that are missing, or of no known use")
    return State(header, tensors, sums, optimizer, scaler)


def broken(path: Path, what: str) -> RunError:
    """The error of a checkpoint that cannot be gone on with."""
    return RunError(f"'{path}' {what}; put back a copy of it, or give --fresh to start anew")


def _not_finite(flat: Mapping[str, Tensor], infinite: frozenset[str]) -> str | None:
    """The first tensor with a value that is not finite."""
    for name, tensor in flat.items():
        allowed = name.removeprefix(MODEL) in infinite and name.startswith(MODEL)
        if tensor.is_floating_point() and not allowed and not torch.isfinite(tensor).all():
            return name
    return None


def _crc(tensor: Tensor) -> int:
    """CRC-32 of shape, dtype and memory of a contiguous tensor on the CPU."""
    head = zlib.crc32(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    return zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, head) if tensor.numel() else head
