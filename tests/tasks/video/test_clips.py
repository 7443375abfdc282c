"""Clips are of the asked shape, the same for the same seed, and augmented alike in every frame."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dyt.tasks.layouts import files
from dyt.tasks.preparation import Preparation
from dyt.tasks.video import VideoError, VideoSpec
from dyt.tasks.video.clips import Clips, crops

from .conftest import STEP, film

HALF = (0.5, 0.5, 0.5)
AUGMENTS: list[dict[str, Any]] = [
    {"augment": "none"},
    {"augment": "jitter", "flip": True},
    {"augment": "crop", "rand_augment": "rand-m7-n2"},
]


def clips(path: Path, training: bool, single: bool = False, **fields: Any) -> Clips:
    spec = VideoSpec.model_validate({"root": "x", "frames": 4, **fields})
    return Clips(files("clips", [path], [1]), spec, Preparation((24, 24), HALF, HALF), training, single)


@pytest.mark.parametrize("fields", AUGMENTS)
def test_training_clips(fields: dict[str, Any], clip: Path) -> None:
    examples = clips(clip, True, **fields)
    first, label = examples[0, 5]
    assert (first.shape, first.dtype, label) == ((4, 3, 24, 24), torch.uint8, 1)
    assert torch.equal(first, examples[0, 5][0])
    assert not torch.equal(first, examples[0, 6][0])


@pytest.mark.parametrize("fields", AUGMENTS)
@pytest.mark.parametrize("size", [(24, 40), (40, 24)])
def test_clips_that_are_not_square_and_grey(fields: dict[str, Any], size: tuple[int, int], clip: Path) -> None:
    spec = VideoSpec.model_validate({"root": "x", "frames": 4, "spatial_views": 3, **fields})
    for training, shape in ((True, (4,)), (False, (3, 4))):
        examples = Clips(files("clips", [clip], [1]), spec, Preparation(size, (0.5,), (0.5,)), training)
        assert examples[0, 5][0].shape == (*shape, 1, *size)


def test_frames_are_augmented_alike(tmp_path: Path) -> None:
    """A film that stands still gives frames that are all the same, whatever was drawn."""
    path = film(tmp_path / "still.mp4", 9, colour=(10, 200, 90))
    examples = clips(path, True, augment="crop", rand_augment="rand-m7-n2", flip=True, sampling="dense", stride=1)
    found = examples[0, 1][0][:, :, 12:, 12:].float()
    assert (found - found[0]).abs().mean() < 6


def test_views(clip: Path) -> None:
    views, _ = clips(clip, False, temporal_views=2, spatial_views=3, sampling="dense", stride=3)[0, 0]
    assert views.shape == (6, 4, 3, 24, 24)
    grey = views.float().mean((2, 3, 4))
    starts = [20 + STEP * (start + 3 * i) for start in (0, 10) for i in range(4)]
    assert grey[0].tolist() + grey[3].tolist() == pytest.approx(starts, abs=2)
    assert torch.allclose(grey[0], grey[1], atol=2)
    single, _ = clips(clip, False, single=True, temporal_views=2, spatial_views=3)[0, 0]
    assert single.shape == (4, 3, 24, 24)


def test_crops_cover_the_longer_side() -> None:
    frames = torch.arange(10).view(1, 1, 1, 10).expand(2, 3, 4, 10)
    assert [int(crop[0, 0, 0, 0]) for crop in crops(frames, 4, 3)] == [0, 3, 6]
    assert [int(crop[0, 0, 0, 0]) for crop in crops(frames.transpose(2, 3), 4, 1)] == [3]


def test_short_clips(tmp_path: Path) -> None:
    path = film(tmp_path / "short.mp4", 2)
    grey = clips(path, False)[0, 0][0].float().mean((0, 2, 3, 4))
    assert grey.tolist() == pytest.approx([20, 20, 20 + STEP, 20 + STEP], abs=2)
    with pytest.raises(VideoError, match=r"short\.mp4: 2 frames, and a clip needs 4; set data\.short=pad"):
        clips(path, False, short="refuse")[0, 0]
