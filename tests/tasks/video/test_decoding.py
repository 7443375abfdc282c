"""The frames asked for are the frames given; a file that cannot be used is answered by name in one line."""

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyt.errors import DyTError
from dyt.tasks.video.decoding import VideoError, VideoWarning, decoded, frame_count

from .conftest import SIZE, STEP, av


def test_the_frames_asked_for(clip: Path) -> None:
    assert frame_count(clip) == 20
    wanted = [0, 7, 7, 19, 3]
    frames = decoded(clip, lambda count: wanted)
    assert frames.shape == (5, *SIZE, 3)
    grey = frames.float().mean((1, 2, 3))
    assert grey.tolist() == pytest.approx([20 + STEP * i for i in wanted], abs=2)


def absent(path: Path, good: bytes) -> None:
    pass


def empty(path: Path, good: bytes) -> None:
    path.touch()


def text(path: Path, good: bytes) -> None:
    path.write_text("no video at all\n" * 50)


def truncated(path: Path, good: bytes) -> None:
    path.write_bytes(good[: len(good) // 2])


def sound(path: Path, good: bytes) -> None:
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        container.mux(stream.encode(frame))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (absent, "no such file"),
        (empty, "an empty file"),
        (text, "cannot be read"),
        (truncated, "no video in it, or cut off"),
        (sound, "no video in it"),
    ],
)
def test_unusable_files_are_named(spoil: Callable[[Path, bytes], None], said: str, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    spoil(path, clip.read_bytes())
    with pytest.raises(VideoError) as caught:
        decoded(path, lambda count: [0])
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


@pytest.fixture
def cut(clip: Path, tmp_path: Path) -> Path:
    """Its index says 20 frames, but the file ends in the midst of them."""
    moved, path = tmp_path / "first.mp4", tmp_path / "cut.mp4"
    with av.open(str(clip)) as source, av.open(str(moved), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = moved.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2])
    return path


def test_a_file_that_ends_too_early_is_cut_off(cut: Path) -> None:
    with pytest.raises(VideoError, match=r"cut\.mp4: cut off, \d+ of its 20 frames are there"):
        decoded(cut, lambda count: [0])


def test_frames_that_do_not_decode(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libav hides much damage, so that its refusal is put in its place here."""
    from dyt.tasks.video import decoding

    frames = decoding._frames

    def damaged(container: Any, stream: Any) -> Any:
        for i, frame in enumerate(frames(container, stream)):
            yield frame if i < 12 else None

    monkeypatch.setattr(decoding, "_frames", damaged)
    with pytest.raises(VideoError, match=r"grey\.mp4: only 12 of its 20 frames can be decoded"):
        decoded(clip, lambda count: [5, 15])
    with pytest.warns(VideoWarning, match=r"grey\.mp4: 8 frames cannot be decoded"):
        found = decoded(clip, lambda count: [5, 15], lenient=True)
    assert found.float().mean((1, 2, 3)).tolist() == pytest.approx([20 + STEP * 5, 20 + STEP * 11], abs=2)


def test_without_pyav(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DyTError, match=r"pip install 'dyt\[video\]'"):
        frame_count(clip)


def test_too_large_a_video_is_refused_before_it_is_decoded(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the limit of images."""
    height, width = SIZE
    for limit in (None, height * width):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert frame_count(clip) == 20
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", height * width - 1)
    with pytest.raises(VideoError) as caught:
        decoded(clip, lambda count: [0])
    assert f"{clip}: {width} x {height} = 1,536 pixels; at most 1,535 are read" in str(caught.value)


def test_frames_that_grow_beyond_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams one behind the other, of which the file's head says the first one's size."""
    both = b""
    for side in (32, 320):
        with av.open(str(tmp_path / "a.m4v"), "w", format="m4v") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.height, stream.width, stream.pix_fmt = side, side, "yuv420p"
            for _ in range(3):
                pixels = np.zeros((side, side, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        both += (tmp_path / "a.m4v").read_bytes()
    (tmp_path / "a.m4v").write_bytes(both)
    assert decoded(tmp_path / "a.m4v", lambda count: [0, count - 1]).shape == (2, 32, 32, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 40)
    with pytest.raises(VideoError, match="320 x 320 = 102,400 pixels; at most 1,600"):
        decoded(tmp_path / "a.m4v", lambda count: [0, count - 1])
