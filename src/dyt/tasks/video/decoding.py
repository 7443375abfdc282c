"""Video files -> RGB frames, with PyAV; a file that cannot be used is answered by name in one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyt.errors import DyTError
from dyt.tasks.images import check_pixels

REMEDY = "replace it, leave it out of the list, or set data.corrupt=skip"


class VideoError(DyTError):
    """A file that is missing, empty, cut off, too short, too large, or no video; the message has its name."""


class VideoWarning(UserWarning):
    """Files that were left out, or frames that were, because the data spec says so."""


def pyav() -> Any:
    """PyAV's module.

    Raises:
        DyTError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise DyTError("video files are read with PyAV, which is not installed: pip install 'dyt[video]'") from error
    return av


def frame_count(path: Path) -> int:
    """How many frames a video file really has: its packets are counted, and only the first frame is decoded.

    Raises:
        VideoError: missing, empty, no video, none that decodes, or fewer frames than the file says.
        DyTError: PyAV is not installed.
    """
    with _opened(path) as (container, stream):
        if next(container.decode(stream), None) is None:
            raise VideoError(f"{path}: no frame of it can be decoded; {REMEDY}")
    with _opened(path) as (container, stream):  # some containers cannot seek back
        count: int = sum(packet.size > 0 and not packet.is_discard for packet in container.demux(stream))
        if count < stream.frames:
            raise VideoError(f"{path}: cut off, {count} of its {stream.frames} frames are there; {REMEDY}")
    return count


def decoded(path: Path, choose: Callable[[int], Sequence[int]], lenient: bool = False) -> Tensor:
    """The chosen frames of a video, (T, H, W, 3) uint8, in the order chosen.

    The file is decoded from its start to the last chosen frame: exact in every container, whether or not it can seek.

    Args:
        path: the file.
        choose: is given the number of frames; answers positions below it, in any order, repeated or not.
        lenient: frames that cannot be decoded are left out, with a VideoWarning, and where too few are left the last
            one is repeated; by default such a file is refused.

    Raises:
        VideoError: as `frame_count`, or frames that cannot be decoded.
        DyTError: PyAV is not installed.
    """
    count = frame_count(path)
    wanted = list(choose(count))
    needed, frames = set(wanted), {}
    position, latest, lost = -1, None, 0
    with _opened(path) as (container, stream):
        size = stream.width, stream.height  # as the file says; the stream's own changes with its frames
        for frame in _frames(container, stream):
            if frame is None:
                lost += 1
                continue
            check_pixels(frame.width, frame.height, str(path), VideoError)  # it may leave that size
            latest, position = frame, position + 1
            if position in needed:
                frames[position] = _rgb(frame, *size)
            if position == max(wanted):
                break
        missing = needed - set(frames)
        if missing or lost:
            if not lenient or latest is None:
                raise VideoError(f"{path}: only {position + 1} of its {count} frames can be decoded; {REMEDY}")
            warnings.warn(f"{path}: {lost or len(missing)} frames cannot be decoded", VideoWarning, stacklevel=2)
            frames |= dict.fromkeys(missing, _rgb(latest, *size))
    return torch.from_numpy(np.stack([frames[p] for p in wanted]))


def _rgb(frame: Any, width: int, height: int) -> np.ndarray[Any, Any]:
    """(H, W, 3) uint8 of the video's size, which single frames may leave."""
    array: np.ndarray[Any, Any] = frame.to_ndarray(width=width, height=height, format="rgb24")
    return array


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Frames in order of presentation, and None for every packet that does not decode."""
    av = pyav()
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            yield None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, video stream); what libav says against the file inside becomes a VideoError."""
    av = pyav()
    if not path.is_file():
        raise VideoError(f"{path}: {'a directory' if path.is_dir() else 'no such file'}; a video file was expected")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: an empty file; {REMEDY}")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: no video in it, or cut off before its index; {REMEDY}")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise VideoError(f"{path}: libav has no decoder for its codec; {REMEDY}")
            check_pixels(stream.width, stream.height, str(path), VideoError)
            yield container, stream
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        reason = " ".join(str(error.strerror if hasattr(error, "strerror") else error).split())
        raise VideoError(f"{path}: cannot be read ({reason}); {REMEDY}") from error
