"""Which frames of a video make a clip: pure functions of the number of frames. Positions past the end mean the last."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from dyt.tasks.video.spec import VideoSpec


def span(spec: VideoSpec) -> int:
    """Frames of a video that a clip needs, without repeating one."""
    return spec.frames if spec.sampling == "uniform" else (spec.frames - 1) * spec.stride + 1


def training_positions(count: int, spec: VideoSpec, draw: Random) -> list[int]:
    """The frames of one random clip of a video of `count` frames, in order.

    Dense: every `stride`-th frame from a start that is uniform over those that fit. Uniform: one uniformly from each
    of `frames` equal segments (TSN's sampling, arXiv:1608.00859).
    """
    if spec.sampling == "dense":
        start = draw.randint(0, max(count - span(spec), 0))
        return _dense(start, count, spec)
    edges = [i * count / spec.frames for i in range(spec.frames + 1)]
    return [_within(int(low + draw.random() * (high - low)), count) for low, high in pairwise(edges)]


def inference_positions(count: int, spec: VideoSpec, views: int) -> list[list[int]]:
    """The frames of `views` clips, spread over the video and always the same.

    Dense: starts at equal distances from the first frame to the last start that fits; a single view is in the middle.
    Uniform: the same fraction of every segment, at equal distances; a single view takes the middle of each.
    """
    shares = [(i + 0.5) / views for i in range(views)]
    if spec.sampling == "dense":
        room = max(count - span(spec), 0)
        starts = [room // 2] if views == 1 else [round(room * i / (views - 1)) for i in range(views)]
        return [_dense(start, count, spec) for start in starts]
    return [[_within(int((i + share) * count / spec.frames), count) for i in range(spec.frames)] for share in shares]


def _dense(start: int, count: int, spec: VideoSpec) -> list[int]:
    return [_within(start + i * spec.stride, count) for i in range(spec.frames)]


def _within(position: int, count: int) -> int:
    return min(position, count - 1)
